"""Leaves a failing replica alone for a while. Time is an argument."""

from __future__ import annotations

from typing import final

from policies import schema


@final
class Breaker:
    """Closed until `failures` calls in a row have failed; open for `open_for` seconds; then half open: one call, the trial, decides.

    A good status line ends a trial, since its stream may run for minutes; the replica is then one failure away from open until a
    whole reply has come. Of the calls that were under way when it opened nothing more is learnt.
    """

    __slots__ = ("_failed", "_failures", "_open_for", "_trying", "opened_at")

    def __init__(self, options: schema.Breaker) -> None:
        self._failures = options.failures
        self._open_for = options.open_for
        self._failed = 0
        self.opened_at: float | None = None
        """None while closed."""
        self._trying = False

    @property
    def is_open(self) -> bool:
        """Open or half open."""
        return self.opened_at is not None

    def allows(self, now: float) -> bool:
        """May a call go there? Asking changes nothing."""
        return self.opened_at is None or (not self._trying and now - self.opened_at >= self._open_for)

    def start(self) -> bool:
        """An allowed call goes; True: it is the trial, and must be reported as such."""
        if self.opened_at is None:
            return False
        self._trying = True
        return True

    def answered(self) -> None:
        """The trial was answered with a good status line."""
        self.opened_at = None
        self._trying = False
        self._failed = self._failures - 1

    def succeeded(self) -> None:
        """A whole reply of a call that was no trial (or no longer one)."""
        if self.opened_at is None:
            self._failed = 0

    def failed(self, now: float, *, trial: bool) -> None:
        if trial:
            self.opened_at = now
            self._trying = False
        elif self.opened_at is None:
            self._failed += 1
            if self._failed >= self._failures:
                self.opened_at = now

    def abandoned(self) -> None:
        """The trial was cancelled before anything was learnt: the next call is one."""
        self._trying = False
