"""Comments to a streaming client that waits long for its first token (`keep_alive_after`): they tell proxies in between that
the connection lives, at the price of a status sent before anything is decided.
"""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Callable


class KeepAlive:
    """Calls `say(first)` after `period_s`, and again every `period_s`, until stopped."""

    __slots__ = ("_call_later", "_period_s", "_say", "_timer", "spoke")

    def __init__(self, call_later: Callable[..., TimerHandle], period_s: float, say: Callable[[bool], None]) -> None:
        self._call_later = call_later
        self._period_s = period_s
        self._say = say
        self.spoke = False
        self._timer: TimerHandle | None = call_later(period_s, self._fire)

    def _fire(self) -> None:
        first, self.spoke = not self.spoke, True
        self._timer = self._call_later(self._period_s, self._fire)
        self._say(first)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
