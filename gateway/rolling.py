"""Replaces processes one after another: each gets a successor, and drains once that is ready. Both listen on the same socket meanwhile, so
that no connection is refused, and of those that there are none is cut that ends within the time to drain.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterable

from gateway.child import Child

log = logging.getLogger(__name__)

READY_WITHIN_S = 60.0
"""What a successor is given. One that is not ready by then, or dies, ends the replacing: who serves now serves on."""


class Rolling:
    """At most one process more than there were. `children` is the supervisor's list, `start` how it starts one of them."""

    def __init__(self, children: list[Child], start: Callable[[Child], bool]) -> None:
        self._children = children
        self._start = start
        self._waiting: list[Child] = []
        self._pair: tuple[Child, Child] | None = None
        """(who goes, who comes)."""
        self.until: float | None = None
        """When patience with the one or the other ends; None where nothing is under way."""

    def begin(self, children: Iterable[Child]) -> None:
        """Replace these. Nothing is begun twice."""
        if self._pair is not None:
            log.warning("workers are being replaced already")
            return
        self._waiting = list(children)
        self._next()

    def advance(self, drain_s: float) -> None:
        """Look what has come of it. Who goes has `drain_s` seconds."""
        while self._pair is not None:
            old, new = self._pair
            late = self.until is not None and time.monotonic() >= self.until
            if new.leaving:
                if new not in self._children or late:
                    self._give_up(new)
                    return
                if not new.ready:
                    return
                self._hand_over(old, new, drain_s)
            elif old in self._children:
                if late:
                    log.error("%s did not stop in time: killing it", old.spec.name)
                    old.signal(signal.SIGKILL)
                    self.until = time.monotonic() + 1.0
                return
            else:
                log.info("%s is replaced", old.spec.name)
                self._next()

    def _next(self) -> None:
        """Start the next successor, if there is another to be replaced."""
        self._pair, self.until = None, None
        while self._waiting:
            old = self._waiting.pop(0)
            if old not in self._children:
                continue
            new = Child(old.spec)
            new.leaving = True
            if not self._start(new):
                self._waiting.clear()
                return
            self._children.append(new)
            self._pair, self.until = (old, new), time.monotonic() + READY_WITHIN_S
            return

    def _hand_over(self, old: Child, new: Child, drain_s: float) -> None:
        new.leaving, old.leaving = False, True
        if old.process is None:
            self._children.remove(old)
        else:
            old.signal(signal.SIGTERM)
        self.until = time.monotonic() + drain_s

    def _give_up(self, new: Child) -> None:
        log.error("the new %s is not ready: workers are not replaced", new.spec.name)
        new.signal(signal.SIGKILL)
        self._waiting.clear()
        self._pair, self.until = None, None
