"""Whether a refused attempt is tried again, and when. What counts as refused: docs/adr/0006-what-counts-as-refused.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from policies.schema import Retries

BUDGET_WINDOW_S: Final = 10
BUDGET_FLOOR_PER_S: Final = 10
"""Retries that are allowed however few calls there are: without them a quiet backend could never retry."""
RETRY_AFTER_MAX_S: Final = 5.0
"""A backend that asks for a longer pause is not waited for: its answer is passed on, and the client hears the same advice."""
BACKOFF_MAX_S: Final = 5.0


@final
class RetryBudget:
    """Retries in the last 10 seconds: at most `percent` of the calls of that time, and the floor. 0 % means none at all.

    A retry storm multiplies the load of a backend that is already failing; the budget bounds the factor.
    """

    __slots__ = ("_calls", "_percent", "_retries", "_second")

    def __init__(self, percent: float) -> None:
        self._percent = percent
        self._calls = [0] * BUDGET_WINDOW_S
        self._retries = [0] * BUDGET_WINDOW_S
        self._second = 0

    def called(self, now: float) -> None:
        """A call (not a retry) starts."""
        second = int(now)
        if second != self._second:
            self._turn(second)
        self._calls[second % BUDGET_WINDOW_S] += 1

    def spend(self, now: float) -> bool:
        """Take one retry out of the budget, if there is one."""
        second = int(now)
        if second != self._second:
            self._turn(second)
        allowed = BUDGET_FLOOR_PER_S * BUDGET_WINDOW_S + sum(self._calls) * self._percent / 100
        if self._percent <= 0 or sum(self._retries) >= allowed:
            return False
        self._retries[second % BUDGET_WINDOW_S] += 1
        return True

    def _turn(self, second: int) -> None:
        """Forget the seconds that have left the window."""
        for passed in range(max(self._second + 1, second - BUDGET_WINDOW_S + 1), second + 1):
            self._calls[passed % BUDGET_WINDOW_S] = 0
            self._retries[passed % BUDGET_WINDOW_S] = 0
        self._second = second


@final
class RetryRule:
    """The policy's `retries`: which refusals, how often, how long after."""

    __slots__ = ("_attempts", "_backoff", "_jitter", "_reasons")

    def __init__(self, retries: Retries, jitter: Callable[[], float]) -> None:
        """`jitter` draws uniformly from [0, 1)."""
        self._attempts = retries.attempts
        self._reasons = frozenset(retries.retry_on)
        self._backoff = retries.backoff
        self._jitter = jitter

    def wants(self, reason: str, made: int) -> bool:
        """Is a refusal for `reason` ("connect", "429", "503") to be tried again after `made` attempts?"""
        return made < self._attempts and reason in self._reasons

    def delay(self, made: int, retry_after_s: float | None) -> float | None:
        """Seconds to wait: full jitter under an exponential bound, but at least what the backend asked for; None: it asks for too long."""
        wait = self._jitter() * min(BACKOFF_MAX_S, self._backoff * 2.0 ** min(made - 1, 16))
        if retry_after_s is None:
            return wait
        return None if retry_after_s > RETRY_AFTER_MAX_S else max(wait, retry_after_s)
