"""How many calls of one backend may run at once, and who waits for a place."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Literal, TypeAlias, TypeVar

from policies.schema import Concurrency

Entry: TypeAlias = Literal["go", "wait", "full"]

W = TypeVar("W", bound=Hashable)


class Limit(Generic[W]):
    """`limit` places and a first-come queue of `queue`. The policy's numbers are the machine's: each worker takes an equal share of
    them, and at least one place (and, where there is a queue, one seat in it)."""

    __slots__ = ("_concurrency", "_waiting", "in_flight", "places", "seats")

    def __init__(self, concurrency: Concurrency, workers: int = 1) -> None:
        self._concurrency = concurrency
        self._waiting: OrderedDict[W, None] = OrderedDict()
        self.in_flight = 0
        self._divide(workers)

    def _divide(self, workers: int) -> None:
        self.places = max(1, self._concurrency.limit // max(1, workers))
        self.seats = min(self._concurrency.queue, max(1, self._concurrency.queue // max(1, workers)))

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def enter(self, waiter: W) -> Entry:
        """Take a place, else a seat. Whoever finds others waiting waits behind them."""
        if self.in_flight < self.places and not self._waiting:
            self.in_flight += 1
            return "go"
        if len(self._waiting) < self.seats:
            self._waiting[waiter] = None
            return "wait"
        return "full"

    def leave(self) -> W | None:
        """Give a place back; it is the next waiter's, who is returned, unless the share has shrunk meanwhile."""
        self.in_flight -= 1
        return self._admit() if self._waiting else None

    def give_up(self, waiter: W) -> None:
        """A waiter leaves the queue. Idempotent."""
        self._waiting.pop(waiter, None)

    def set_share(self, workers: int) -> list[W]:
        """Divide by so many live workers; returns the waiters that now have a place. A smaller share stops nobody."""
        self._divide(workers)
        admitted = []
        while (waiter := self._admit()) is not None:
            admitted.append(waiter)
        return admitted

    def _admit(self) -> W | None:
        if not self._waiting or self.in_flight >= self.places:
            return None
        self.in_flight += 1
        return self._waiting.popitem(last=False)[0]
