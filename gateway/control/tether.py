"""The line to the supervisor: JSON lines both ways over an inherited socket (`gateway.processes` says which)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping

import msgspec

log = logging.getLogger(__name__)

LINE_BYTES_MAX = 64 * 1024


class _News(msgspec.Struct):
    restarts: dict[str, int] = {}


class Tether:
    """Without a socket (a controller started by hand) it says nothing and hears nothing."""

    def __init__(
        self, line: socket.socket | None, *, on_restarts: Callable[[Mapping[str, int]], None], on_gone: Callable[[], None]
    ) -> None:
        self._line = line
        self._on_restarts = on_restarts
        self._on_gone = on_gone
        self._pending = b""

    def start(self) -> None:
        """Listen on the running loop."""
        if self._line is not None:
            self._line.setblocking(False)
            asyncio.get_running_loop().add_reader(self._line.fileno(), self._readable)

    def report(self, **what: object) -> None:
        """Tell the supervisor. One that does not read is not waited for."""
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.send(msgspec.json.encode(what) + b"\n")

    def close(self) -> None:
        if self._line is not None:
            asyncio.get_running_loop().remove_reader(self._line.fileno())
            self._line.close()
            self._line = None

    def _readable(self) -> None:
        assert self._line is not None
        try:
            data = self._line.recv(LINE_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            log.warning("the supervisor is gone")
            self.close()
            self._on_gone()
            return
        *lines, rest = (self._pending + data).split(b"\n")
        self._pending = rest[:LINE_BYTES_MAX]
        for line in lines:
            try:
                news = msgspec.json.decode(line, type=_News)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                log.warning("the supervisor said something that cannot be read: %s", error)
            else:
                self._on_restarts(news.restarts)
