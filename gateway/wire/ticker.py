"""One timer for every timeout of the wire: a few times a second it walks the connections, instead of a timer for each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import TypeAlias

from gateway.wire.heads import status_line

log = logging.getLogger(__name__)

Sweep: TypeAlias = Callable[[float], None]
"""Called with loop.time(); looks for what is overdue."""


class Ticker:
    """Calls the registered sweeps every `period_s`, and keeps what only changes that often: the time and the `date` line.

    It starts with the first sweep registered. A timeout measured by it is late by up to one period, which is why `period_s`
    is a quarter of a second and no timeout of the gateway is shorter than one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, period_s: float = 0.25) -> None:
        self.loop = loop
        self.now = loop.time()
        """loop.time() of the last tick."""
        self.date_line = b""
        """`date: ...` of RFC 9110 section 6.6.1, CRLF included."""
        self.ok_lines = b""
        """What nearly every answer begins with: the status line of a 200, and the date line."""
        self._period_s = period_s
        self._sweeps: list[Sweep] = []
        self._timer: asyncio.TimerHandle | None = None
        self._dated = 0
        self._date(time.time())

    def register(self, sweep: Sweep) -> None:
        self._sweeps.append(sweep)
        if self._timer is None:
            self._timer = self.loop.call_later(self._period_s, self._fire)

    def unregister(self, sweep: Sweep) -> None:
        """Forget a sweep; one that is not registered is ignored."""
        if sweep in self._sweeps:
            self._sweeps.remove(sweep)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def tick(self, now: float) -> None:
        """One pass at `now` (loop.time()). A sweep that raises is logged and does not keep the others from running."""
        self.now = now
        self._date(time.time())
        for sweep in tuple(self._sweeps):
            try:
                sweep(now)
            except Exception:
                log.exception("a sweep failed")

    def _fire(self) -> None:
        now = self.loop.time()
        self._timer = self.loop.call_later(self._period_s, self._fire)
        self.tick(now)

    def _date(self, wall: float) -> None:
        if int(wall) != self._dated:
            self._dated = int(wall)
            self.date_line = b"date: %b\r\n" % formatdate(self._dated, usegmt=True).encode()
            self.ok_lines = status_line(200) + self.date_line
