"""The clock that records grow old by: a wall clock that is stepped ahead must not delete what is not old."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gateway.telemetry.counters import Counter

log = logging.getLogger(__name__)

AHEAD_S = 60.0
"""A wall clock that is further ahead than this is told of. It is never believed, however little it is ahead."""


def since_boot() -> float:
    """Seconds that have passed, those of a suspended machine too where the system counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class AgeClock:
    """Follows the wall clock, but never further than time has passed since the process began. Behind, it follows at once: what seems
    younger than it is only lives longer."""

    def __init__(self, jumps: Counter, *, wall: Callable[[], float] = time.time, passed: Callable[[], float] = since_boot) -> None:
        self._jumps = jumps
        self._wall = wall
        self._passed = passed
        self._base = wall() - passed()
        self._ahead = False

    def now(self) -> float:
        """Unix seconds, by which to say how old something is."""
        wall, believed = self._wall(), self._base + self._passed()
        ahead = wall - believed > AHEAD_S
        if ahead and not self._ahead:
            self._jumps.inc()
            log.warning(
                "the wall clock has jumped ahead: records do not grow older by it before a restart",
                extra={"ahead_s": round(wall - believed)},
            )
        self._ahead = ahead
        return min(wall, believed)
