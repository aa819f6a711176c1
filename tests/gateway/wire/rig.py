"""A server and a pool on fake transports: reads go in by hand, writes come out as bytes, time is what the test says."""

from __future__ import annotations

from typing import Any, cast

from gateway.wire.base import ClientLimits, Reply, ServerLimits, WireFailure
from gateway.wire.client_connection import ClientConnection
from gateway.wire.fake import FakeLoop, FakeTransport
from gateway.wire.pool import Pool
from gateway.wire.request import Request
from gateway.wire.server import Server
from gateway.wire.ticker import Ticker

DATE = b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"


def render_error(status: int, message: str) -> tuple[bytes, bytes]:
    return b"content-type: text/plain\r\n", message.encode()


class StillTicker(Ticker):
    """It is always 1970."""

    def _date(self, wall: float) -> None:
        self.date_line = DATE
        self.ok_lines = b"HTTP/1.1 200 OK\r\n" + DATE


class Hooks:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def connection_opened(self) -> None:
        self.seen.append("opened")

    def connection_closed(self) -> None:
        self.seen.append("closed")

    def connection_refused(self) -> None:
        self.seen.append("refused")

    def wire_error(self, status: int) -> None:
        self.seen.append(str(status))


class Watcher:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def client_left(self) -> None:
        self.seen.append("left")

    def pause_writing(self) -> None:
        self.seen.append("pause")

    def resume_writing(self) -> None:
        self.seen.append("resume")


class Client:
    """One fake client of a `ServerRig`."""

    def __init__(self, rig: ServerRig) -> None:
        self.rig = rig
        self.transport = FakeTransport()
        self.protocol = rig.server.factory()
        self.protocol.connection_made(self.transport)

    def says(self, *reads: bytes) -> None:
        for data in reads:
            self.protocol.data_received(data)

    def hears(self) -> bytes:
        """What has been written since the last time it was asked."""
        heard = self.transport.written
        self.transport.writes.clear()
        return heard

    def leaves(self) -> None:
        self.protocol.eof_received()
        self.is_gone()

    def is_gone(self) -> None:
        self.transport.closing = True
        self.protocol.connection_lost(None)


class ServerRig:
    """A server whose handler keeps each request and reply, with a watcher as the reply's observer."""

    def __init__(self, limits: ServerLimits | None = None) -> None:
        self.loop = FakeLoop()
        self.ticker = StillTicker(cast(Any, self.loop))
        self.hooks = Hooks()
        self.requests: list[Request] = []
        self.replies: list[Reply] = []
        self.watchers: list[Watcher] = []
        self.answer: Any = None
        self.server = Server(self.handle, limits or ServerLimits(), self.ticker, render_error=render_error, hooks=self.hooks)

    def handle(self, request: Request, reply: Reply) -> None:
        watcher = Watcher()
        reply.observer = watcher
        self.requests.append(request)
        self.replies.append(reply)
        self.watchers.append(watcher)
        if self.answer is not None:
            self.answer(request, reply)

    def client(self) -> Client:
        return Client(self)

    def passes(self, seconds: float) -> None:
        """Time goes by and the ticker ticks once."""
        self.loop.clock += seconds
        self.ticker.tick(self.loop.clock)


class Listener:
    """A receiver that writes down what it is told."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.seen: list[str] = []
        self.failure: WireFailure | None = None

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def response_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status, self.headers = status, headers
        self.seen.append("head")

    def response_body(self, data: bytes) -> None:
        assert data
        self.pieces.append(data)
        self.seen.append("body")

    def response_end(self) -> None:
        self.seen.append("end")

    def response_failed(self, failure: WireFailure) -> None:
        self.failure = failure
        self.seen.append("failed")


class PoolRig:
    """A pool that is given fake connections instead of opening them."""

    def __init__(self, limits: ClientLimits | None = None) -> None:
        self.loop = FakeLoop()
        self.ticker = StillTicker(cast(Any, self.loop))
        self.pool = Pool("backend", 80, limits=limits or ClientLimits(), loop=cast(Any, self.loop), ticker=self.ticker)

    def connection(self) -> tuple[ClientConnection, FakeTransport]:
        """A new idle one."""
        connection, transport = ClientConnection(self.pool), FakeTransport()
        connection.connection_made(transport)
        self.pool.adopt(connection)
        self.pool.put_back(connection)
        return connection, transport

    def passes(self, seconds: float) -> None:
        self.loop.clock += seconds
        self.ticker.tick(self.loop.clock)
