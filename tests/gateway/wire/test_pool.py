"""Which connection takes a request."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from gateway.wire.base import ClientLimits
from gateway.wire.fake import FakeTransport
from gateway.wire.pool import Pool
from gateway.wire.ticker import Ticker
from tests.gateway.wire.rig import Listener, PoolRig

REQUEST = (b"GET / HTTP/1.1\r\nhost: h\r\n\r\n",)
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Ending(Listener):
    """A listener that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = asyncio.Event()

    def response_end(self) -> None:
        super().response_end()
        self.ended.set()

    def response_failed(self, failure: object) -> None:
        super().response_failed(failure)  # type: ignore[arg-type]
        self.ended.set()


def pool_to(port: int, host: str = "127.0.0.1", limits: ClientLimits | None = None) -> Pool:
    loop = asyncio.get_running_loop()
    return Pool(host, port, limits=limits or ClientLimits(), loop=loop, ticker=Ticker(loop))


def test_the_connection_used_last_goes_first() -> None:
    rig = PoolRig()
    _, old = rig.connection()
    newer, new = rig.connection()
    rig.pool.request(REQUEST, Listener(), connect_timeout_s=1)
    assert (old.writes, new.writes) == ([], [REQUEST[0]])
    newer.data_received(RESPONSE)
    rig.pool.request(REQUEST, Listener(), connect_timeout_s=1)
    assert old.writes == []


def test_a_connection_that_is_closing_is_passed_over() -> None:
    rig = PoolRig()
    _, old = rig.connection()
    _, new = rig.connection()
    new.closing = True
    rig.pool.request(REQUEST, Listener(), connect_timeout_s=1)
    assert old.writes == [REQUEST[0]]


def test_idle_connections_grow_old() -> None:
    rig = PoolRig(ClientLimits(idle_timeout_s=30))
    _, first = rig.connection()
    rig.passes(20)
    _, second = rig.connection()
    rig.passes(9)
    assert not first.closing
    rig.passes(1)
    assert (first.closing, second.closing) == (True, False)
    assert (rig.pool.idle, rig.pool.open) == (1, 1)


def test_no_more_idle_ones_than_allowed() -> None:
    rig = PoolRig(ClientLimits(idle_max=1))
    rig.connection()
    _, second = rig.connection()
    assert second.closing
    assert rig.pool.open == 1


def test_exhausted_is_told_after_the_call() -> None:
    rig = PoolRig(ClientLimits(connections_max=1))
    rig.connection()
    rig.pool.request(REQUEST, Listener(), connect_timeout_s=1)
    listener, cancelled = Listener(), Listener()
    rig.pool.request(REQUEST, listener, connect_timeout_s=1)
    rig.pool.request(REQUEST, cancelled, connect_timeout_s=1).cancel()
    assert listener.seen == []
    rig.loop.run()
    assert listener.failure is not None
    assert (listener.failure.kind, listener.failure.sent) == ("exhausted", False)
    assert cancelled.seen == []


def test_a_retired_pool_ends_its_requests_and_keeps_nothing() -> None:
    rig = PoolRig()
    busy, transport = rig.connection()
    listener = Listener()
    rig.pool.request(REQUEST, listener, connect_timeout_s=1)
    _, idle = rig.connection()
    rig.pool.close()
    assert idle.closing
    assert not transport.closing
    busy.data_received(RESPONSE)
    assert listener.seen == ["head", "end"]
    assert transport.closing
    assert rig.pool.open == 0
    assert repr(rig.pool) == "<Pool backend:80 busy=0 idle=0 opening=0 closed>"


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        pool, listener = pool_to(taken.getsockname()[1]), Ending()
        ticket = pool.request(REQUEST, listener, connect_timeout_s=5)
        assert listener.seen == []
        assert pool.open == 1
        await listener.ended.wait()
    assert listener.failure is not None
    assert (listener.failure.kind, listener.failure.sent, ticket.sent) == ("connect", False, False)
    assert pool.open == 0


async def test_a_name_that_does_not_exist() -> None:
    pool, listener = pool_to(80, "no-such-host.invalid"), Ending()
    pool.request(REQUEST, listener, connect_timeout_s=20)
    await listener.ended.wait()
    assert listener.failure is not None
    assert listener.failure.kind in ("connect", "timeout_connect")


async def test_a_name_that_cannot_be_one() -> None:
    pool, listener = pool_to(80, "a" * 70 + ".example"), Ending()
    pool.request(REQUEST, listener, connect_timeout_s=20)
    await listener.ended.wait()
    assert listener.failure is not None
    assert listener.failure.kind == "connect"


async def test_connecting_takes_too_long() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # A full accept queue leaves the next connection waiting for an answer to its SYN.
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        pool, listener = pool_to(full.getsockname()[1]), Ending()
        pool.request(REQUEST, listener, connect_timeout_s=0.05)
        await listener.ended.wait()
        for sock in waiting:
            sock.close()
    assert listener.failure is not None
    assert listener.failure.kind == "timeout_connect"
    assert pool.open == 0


async def test_a_request_cancelled_while_connecting_leaves_a_spare() -> None:
    class Silent(asyncio.Protocol):
        pass

    server = await asyncio.get_running_loop().create_server(Silent, "127.0.0.1", 0)
    pool, listener = pool_to(server.sockets[0].getsockname()[1]), Listener()
    ticket = pool.request(REQUEST, listener, connect_timeout_s=5)
    ticket.cancel()
    while pool.idle == 0:
        await asyncio.sleep(0)
    assert (pool.open, listener.seen, ticket.sent) == (1, [], False)
    await pool.abort()
    server.close()


async def test_a_connection_that_is_lost_before_it_is_used() -> None:
    class Loop:
        async def create_connection(self, factory: Any, *args: Any, **options: Any) -> tuple[FakeTransport, Any]:
            connection, transport = factory(), FakeTransport()
            connection.connection_made(transport)
            connection.connection_lost(None)
            return transport, connection

    rig = PoolRig()
    rig.pool._loop = cast(Any, Loop())
    listener = Ending()
    rig.pool.request(REQUEST, listener, connect_timeout_s=5)
    await listener.ended.wait()
    assert listener.failure is not None
    assert (listener.failure.kind, listener.failure.sent) == ("connect", False)
    assert rig.pool.open == 0


async def test_shutting_down_while_connecting() -> None:
    pool, listener = pool_to(1), Listener()
    pool.request(REQUEST, listener, connect_timeout_s=5)
    await pool.abort()
    await asyncio.sleep(0)
    assert listener.seen == []
