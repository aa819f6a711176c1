"""When a second call goes out beside a slow one: how long first calls usually take, and how many second ones may be made.

Time is an argument. Each worker goes by its own calls.
"""

from __future__ import annotations

import math
from typing import Final, final

KEPT: Final = 256
"""Times of a backend's latest first calls that its percentiles are read from."""
KNOWN_MIN: Final = 20
"""With fewer there is no usual time yet, and no second call."""
SORTED_EVERY: Final = 16
"""Times that come before the percentiles are read anew."""
SAVED_MAX: Final = 10.0
"""Second calls that a quiet time may save up for a bad one."""

SHARES: Final = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}


@final
class UsualTime:
    """The latest times of one backend's first calls to their holds, in seconds. One that was cancelled since its second call won counts
    with the time it had by then: it is at least that slow, and leaving it out would make slow backends look quick."""

    __slots__ = ("_next", "_since", "_sorted", "_times")

    def __init__(self) -> None:
        self._times: list[float] = []
        self._next = 0
        self._sorted: list[float] = []
        self._since = 0

    def took(self, seconds: float) -> None:
        if len(self._times) < KEPT:
            self._times.append(seconds)
        else:
            self._times[self._next] = seconds
            self._next = (self._next + 1) % KEPT
        self._since += 1

    def percentile(self, share: float) -> float | None:
        """The nearest rank; None where too few calls were seen."""
        if len(self._times) < KNOWN_MIN:
            return None
        if not self._sorted or self._since >= SORTED_EVERY:
            self._sorted = sorted(self._times)
            self._since = 0
        return self._sorted[max(0, math.ceil(share * len(self._sorted)) - 1)]


@final
class HedgeBudget:
    """Every first call saves a share of a second one."""

    __slots__ = ("_saved", "_share")

    def __init__(self, percent: float) -> None:
        self._share = percent / 100
        self._saved = 1.0

    def called(self) -> None:
        self._saved = min(SAVED_MAX, self._saved + self._share)

    def spend(self) -> bool:
        """Take one second call out of the budget, if there is one."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True


@final
class Hedging:
    """What a worker remembers of one route's races."""

    __slots__ = ("budget", "usual")

    def __init__(self, percent: float) -> None:
        self.budget = HedgeBudget(percent)
        self.usual: dict[str, UsualTime] = {}
        """By backend: those of the policy."""

    def took(self, backend: str, seconds: float) -> None:
        """A first call came to its outcome, or was cancelled, after so long."""
        known = self.usual.get(backend)
        if known is None:
            known = self.usual[backend] = UsualTime()
        known.took(seconds)

    def delay(self, backend: str, after: float | str) -> float | None:
        """Seconds that the first call has; None: nothing is known of it yet."""
        if not isinstance(after, str):
            return after
        known = self.usual.get(backend)
        return None if known is None else known.percentile(SHARES[after])
