"""The listening side: all connections of the clients, their limits, and how they come to an end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeAlias, cast, final

from gateway.wire.base import Handler, ServerLimits
from gateway.wire.request_reader import LastHead
from gateway.wire.server_connection import ServerConnection
from gateway.wire.ticker import Ticker

RenderError: TypeAlias = Callable[[int, str], tuple[bytes, bytes]]
"""(status, message) -> (header lines, each ending in CRLF; body) of an answer that the wire itself gives."""


class ServerHooks(Protocol):
    """Told what there is to count."""

    def connection_opened(self) -> None: ...
    def connection_closed(self) -> None: ...
    def connection_refused(self) -> None: ...
    def wire_error(self, status: int) -> None: ...


class NoHooks:
    """Counts nothing."""

    def connection_opened(self) -> None:
        pass

    def connection_closed(self) -> None:
        pass

    def connection_refused(self) -> None:
        pass

    def wire_error(self, status: int) -> None:
        pass


@final
class Server:
    """Give `factory` to `loop.create_server`; `handler` is then called once for every request, and must not raise.

    A handler answers through its `Reply`, now or later. It is never called for a request that the wire refuses itself.
    """

    def __init__(
        self, handler: Handler, limits: ServerLimits, ticker: Ticker, *, render_error: RenderError, hooks: ServerHooks | None = None
    ) -> None:
        self.handler = handler
        self.limits = limits
        self.ticker = ticker
        self.loop = ticker.loop
        self.now = ticker.loop.time
        self.render_error = render_error
        self.hooks: ServerHooks = hooks or NoHooks()
        self.draining = False
        self.last_head = LastHead()
        self._connections: set[ServerConnection] = set()
        self._drained: asyncio.Future[None] | None = None
        ticker.register(self._sweep)

    def factory(self) -> asyncio.Protocol:
        return cast(asyncio.Protocol, ServerConnection(self))

    @property
    def connections_open(self) -> int:
        return len(self._connections)

    def drain(self) -> asyncio.Future[None]:
        """Let every client finish: requests are answered with `connection: close`, and a connection that stays idle closes after
        `parting_timeout_s`. The future is done when none is open; whoever does not want to wait that long calls `close`. Stop
        listening first."""
        if self._drained is None:
            self.draining = True
            self._drained = self.loop.create_future()
            for connection in tuple(self._connections):
                connection.drain()
            self._check_drained()
        return self._drained

    def close(self) -> None:
        """Cut off what is still open."""
        self.draining = True
        self.ticker.unregister(self._sweep)
        for connection in tuple(self._connections):
            connection.abort()

    def opened(self, connection: ServerConnection) -> bool:
        """A connection has come; False if it is one too many. (For ServerConnection, like `closed`.)"""
        if len(self._connections) >= self.limits.connections_max:
            self.hooks.connection_refused()
            return False
        self._connections.add(connection)
        self.hooks.connection_opened()
        return True

    def closed(self, connection: ServerConnection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self.hooks.connection_closed()
            self._check_drained()

    def _check_drained(self) -> None:
        if self._drained is not None and not self._connections and not self._drained.done():
            self._drained.set_result(None)

    def _sweep(self, now: float) -> None:
        for connection in tuple(self._connections):
            if connection.deadline <= now:
                connection.overdue(now)
