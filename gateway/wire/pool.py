"""The connections to one backend address: which one takes a request, and when another is opened."""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import Sequence
from typing import Final, cast, final

from gateway.tasks import TaskGroup
from gateway.wire.base import ClientLimits, Receiver, WireFailure
from gateway.wire.client_connection import ClientConnection
from gateway.wire.known_head import KnownHead
from gateway.wire.ticker import Ticker


class _Deaf:
    """The receiver of a ticket that is over: it holds nothing alive."""

    def response_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        pass

    def response_body(self, data: bytes) -> None:
        pass

    def response_end(self) -> None:
        pass

    def response_failed(self, failure: WireFailure) -> None:
        pass


_DEAF: Final = _Deaf()


@final
class PoolTicket:
    """`base.Ticket`: one request, first waiting for its connection, then on it, then over.

    Cancelled while it waits, it leaves the connection that is being opened to the next request: that costs nothing, is bounded
    by the connect timeout, and often comes in handy, since a cancelled response takes its connection with it.
    """

    __slots__ = ("connection", "heard", "over", "receiver", "sent")

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.heard = False
        self.sent = False
        self.over = False
        self.connection: ClientConnection | None = None

    def cancel(self) -> None:
        if self.over:
            return
        self.over = True
        self.receiver = _DEAF
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abort()

    def pause_reading(self) -> None:
        if self.connection is not None:
            self.connection.pause_reading()

    def resume_reading(self) -> None:
        if self.connection is not None:
            self.connection.resume_reading()

    def end(self) -> None:
        """The response is whole. (For the connection, like `fail`.)"""
        self.over = True
        receiver, self.receiver = self.receiver, _DEAF
        receiver.response_end()

    def fail(self, failure: WireFailure) -> None:
        if self.over:
            return
        self.over = True
        self.connection = None
        receiver, self.receiver = self.receiver, _DEAF
        receiver.response_failed(failure)


@final
class Pool:
    """`base.RequestSender` for one host and port. The name is resolved again for every connection that is opened.

    Of the idle connections the one used last goes first, so that those not needed grow old and are closed.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        ssl: tls.SSLContext | None = None,
        server_hostname: str | None = None,
        limits: ClientLimits,
        loop: asyncio.AbstractEventLoop,
        ticker: Ticker,
    ) -> None:
        self.address = f"{host}:{port}"
        self.limits = limits
        self._host = host
        self._port = port
        self._ssl = ssl
        self._server_hostname = (server_hostname or host) if ssl is not None else None
        self._loop = loop
        self._ticker = ticker
        self._connections: set[ClientConnection] = set()
        self._idle: list[ClientConnection] = []
        self._opening = 0
        self._openers = TaskGroup()
        self._closed = False
        self.known: KnownHead | None = None
        """The head of the last whole 200 that came in one read."""
        ticker.register(self._sweep)

    @property
    def idle(self) -> int:
        """Connections waiting for a request."""
        return len(self._idle)

    @property
    def open(self) -> int:
        """Connections open or being opened."""
        return len(self._connections) + self._opening

    def __repr__(self) -> str:
        busy = len(self._connections) - len(self._idle)
        closed = " closed" if self._closed else ""
        return f"<Pool {self.address} busy={busy} idle={self.idle} opening={self._opening}{closed}>"

    def request(self, parts: Sequence[bytes], receiver: Receiver, *, connect_timeout_s: float) -> PoolTicket:
        ticket = PoolTicket(receiver)
        while self._idle:
            if self._idle.pop().send(ticket, parts):
                return ticket
        if self.open < self.limits.connections_max:
            self._opening += 1
            self._openers.spawn(self._open(ticket, parts, connect_timeout_s), name=f"connect {self.address}")
        else:
            failure = WireFailure("exhausted", f"{self.address}: all {self.limits.connections_max} connections are in use")
            self._loop.call_soon(ticket.fail, failure)
        return ticket

    def close(self) -> None:
        """Retire: idle connections are closed, requests under way end as they would have. A request that comes later is still
        served, on a connection of its own."""
        self._closed = True
        self._ticker.unregister(self._sweep)
        self.drop_idle()

    async def abort(self) -> None:
        """Close and cut off everything; requests under way fail as `closed` or `truncated`, those without a connection unheard."""
        self.close()
        await self._openers.close()
        for connection in tuple(self._connections):
            connection.cut()

    async def _open(self, ticket: PoolTicket, parts: Sequence[bytes], connect_timeout_s: float) -> None:
        try:
            async with asyncio.timeout(connect_timeout_s):
                _, protocol = await self._loop.create_connection(
                    self._new_connection, self._host, self._port, ssl=self._ssl, server_hostname=self._server_hostname
                )
            connection = cast(ClientConnection, protocol)
            self.adopt(connection)
        except TimeoutError:
            ticket.fail(WireFailure("timeout_connect", f"{self.address}: no connection within {connect_timeout_s:g} s"))
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be encoded
            ticket.fail(WireFailure("connect", f"{self.address}: {error}"))
        else:
            if not connection.usable:
                self.forget(connection)
                ticket.fail(WireFailure("connect", f"{self.address}: closed as soon as it was open"))
            elif ticket.over:
                self.put_back(connection)  # cancelled meanwhile: a spare for the next request
            else:
                connection.send(ticket, parts)
        finally:
            self._opening -= 1

    def _new_connection(self) -> asyncio.Protocol:
        return cast(asyncio.Protocol, ClientConnection(self))

    # For ClientConnection, and for tests that bring their own

    def drop_idle(self) -> None:
        """Close the idle connections; requests under way go on."""
        while self._idle:
            self._idle[-1].abort()

    def adopt(self, connection: ClientConnection) -> None:
        """A connection that was opened for this pool."""
        self._connections.add(connection)

    def put_back(self, connection: ClientConnection) -> None:
        """A connection that can serve again."""
        if self._closed or len(self._idle) >= self.limits.idle_max:
            connection.abort()
        else:
            connection.idle_since = self._ticker.now
            self._idle.append(connection)

    def forget(self, connection: ClientConnection) -> None:
        """A connection that is closed, or about to be."""
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _sweep(self, now: float) -> None:
        """The oldest idle connections stand first."""
        while self._idle and now - self._idle[0].idle_since >= self.limits.idle_timeout_s:
            self._idle[0].abort()
