"""A full collection costs a worker with many streams 20 ms and more, so nothing on the path of a request may need one."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest

from gateway.wire.base import Reply
from gateway.wire.client_connection import ClientConnection
from gateway.wire.fake import FakeTransport
from gateway.wire.request import Request
from tests.gateway.wire.rig import Listener, PoolRig, ServerRig

GET = b"POST /a HTTP/1.1\r\nHost: h\r\ncontent-length: 1\r\n\r\nx"
RESPONSE = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"


@pytest.fixture
def left_over() -> Iterator[Callable[[], int]]:
    gc.collect()
    gc.disable()
    yield gc.collect
    gc.enable()


def test_requests_and_connections_leave_no_cycles(left_over: Callable[[], int]) -> None:
    rig = ServerRig()
    rig.handle = lambda request, reply: reply.send(200, b"", request.body)  # type: ignore[method-assign]
    rig.server.handler = rig.handle
    for _ in range(10):
        client = rig.client()
        client.says(*[GET] * 10)
        client.leaves()
        client = rig.client()
        client.says(GET[:30])
        client.leaves()
        client = rig.client()
        client.says(b"garbage\r\n\r\n")
        client.is_gone()
    del client
    assert left_over() == 0


def test_an_exchange_that_points_both_ways_leaves_no_cycles(left_over: Callable[[], int]) -> None:
    class Exchange(Listener):
        def __init__(self, reply: Reply) -> None:
            super().__init__()
            self.reply = reply
            reply.observer = self
            self.ticket = pools.pool.request((GET,), self, connect_timeout_s=1)

        def response_end(self) -> None:
            self.reply.send(200, b"", self.body)

        def client_left(self) -> None:
            self.ticket.cancel()

        def pause_writing(self) -> None: ...
        def resume_writing(self) -> None: ...

    def handle(request: Request, reply: Reply) -> None:
        Exchange(reply)

    pools, rig = PoolRig(), ServerRig()
    rig.server.handler = handle
    client = rig.client()
    for ending in ("answered", "left", "lost") * 5:
        backend, transport = pools.connection()
        client.says(GET)
        if ending == "answered":
            backend.data_received(RESPONSE)
        elif ending == "left":
            client.leaves()
            client = rig.client()
        if ending == "lost":
            backend.data_received(b"junk")
            client.is_gone()
            client = rig.client()
        transport.closing = True
        backend.connection_lost(None)
        del backend, transport
    assert left_over() == 0


def test_a_refused_connection_of_the_pool_leaves_no_cycles(left_over: Callable[[], int]) -> None:
    rig = PoolRig()
    for _ in range(3):
        connection, transport = ClientConnection(rig.pool), FakeTransport()
        connection.connection_made(transport)
        connection.connection_lost(None)
    del connection, transport
    assert left_over() == 0
