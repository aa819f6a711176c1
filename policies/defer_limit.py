"""How much was deferred of late: a sliding window over a route's judged requests, in a fixed number of slots.

Time is an argument. Each worker counts its own requests: with several, the share of all of them stays under the limit too.
"""

from __future__ import annotations

from policies.plan import Judgement

SLOTS = 60
"""The window is forgotten in so many steps."""
JUDGED_MIN = 20
"""With fewer judged requests in the window there is no share to speak of, and nothing is limited."""
_NOT_JUDGED = frozenset({"error", "no_rule", "calibration_disabled", "audit"})


class DeferralWindow:
    """Counts judged requests, and how many of them were deferred, over the last `window_s` seconds."""

    __slots__ = ("_deferred", "_judged", "_newest", "_share", "_slot_s", "_sum_deferred", "_sum_judged")

    def __init__(self, percent: float, window_s: float) -> None:
        if not (0 < percent < 100 and window_s > 0):
            raise ValueError("a limit is between 0 and 100 percent, its window above 0")
        self._share = percent / 100
        self._slot_s = window_s / SLOTS
        self._judged = [0] * SLOTS
        self._deferred = [0] * SLOTS
        self._sum_judged = self._sum_deferred = 0
        self._newest = 0
        """The slot that is counted in, from the clock's beginning."""

    def count(self, now_s: float, *, deferred: bool) -> None:
        """One judged request. A clock that steps back counts in the newest slot."""
        self._forget(now_s)
        place = self._newest % SLOTS
        self._judged[place] += 1
        self._sum_judged += 1
        if deferred:
            self._deferred[place] += 1
            self._sum_deferred += 1

    def exceeded(self, now_s: float) -> bool:
        """One more deferral would be more than the limit allows."""
        self._forget(now_s)
        return self._sum_judged >= JUDGED_MIN and self._sum_deferred + 1 > self._share * (self._sum_judged + 1)

    def share(self, now_s: float) -> float:
        """What was deferred of what was judged, 0..1; 0 where nothing was."""
        self._forget(now_s)
        return self._sum_deferred / self._sum_judged if self._sum_judged else 0.0

    def _forget(self, now_s: float) -> None:
        slot = int(now_s // self._slot_s)
        if slot <= self._newest:
            return
        for passed in range(max(self._newest + 1, slot - SLOTS + 1), slot + 1):
            place = passed % SLOTS
            self._sum_judged -= self._judged[place]
            self._sum_deferred -= self._deferred[place]
            self._judged[place] = self._deferred[place] = 0
        self._newest = slot


def was_deferred(judgements: tuple[Judgement, ...]) -> bool | None:
    """Whether a request counts as deferred; None: it does not count, since no reply was judged."""
    judged = [judgement.deferred for judgement in judgements if judgement.by not in _NOT_JUDGED]
    return any(judged) if judged else None
