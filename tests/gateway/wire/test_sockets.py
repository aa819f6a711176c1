"""Server and pool over real sockets, on uvloop as in a worker, and on asyncio's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import ssl as tls
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.wire.base import ClientLimits, Handler, Reply, ServerLimits
from gateway.wire.pool import Pool
from gateway.wire.request import Request
from gateway.wire.server import Server
from gateway.wire.ticker import Ticker
from gateway.wire.tls import client_context, server_context
from tests.gateway.wire.rig import Hooks, Watcher, render_error
from tests.gateway.wire.test_pool import Ending


def post(body: bytes, more: bytes = b"") -> tuple[bytes, bytes]:
    return b"POST /echo HTTP/1.1\r\nhost: localhost\r\n%bcontent-length: %d\r\n\r\n" % (more, len(body)), body


class Seen(Watcher):
    """A watcher that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.left = asyncio.Event()
        self.paused = asyncio.Event()
        self.resumed = asyncio.Event()

    def client_left(self) -> None:
        self.left.set()

    def pause_writing(self) -> None:
        self.paused.set()

    def resume_writing(self) -> None:
        self.resumed.set()


class Place:
    """A listening server, its ticker and its port."""

    def __init__(self, handler: Handler, limits: ServerLimits | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.ticker = Ticker(self.loop, period_s=0.02)
        self.hooks = Hooks()
        self.server = Server(handler, limits or ServerLimits(), self.ticker, render_error=render_error, hooks=self.hooks)
        self.port = 0
        self.listener: asyncio.Server | None = None

    async def listen(self, ssl: tls.SSLContext | None = None) -> None:
        self.listener = await self.loop.create_server(self.server.factory, "127.0.0.1", 0, ssl=ssl)
        self.port = self.listener.sockets[0].getsockname()[1]

    def pool(self, **options: Any) -> Pool:
        options.setdefault("limits", ClientLimits())
        return Pool(options.pop("host", "127.0.0.1"), self.port, loop=self.loop, ticker=self.ticker, **options)


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[Request, Reply], None], limits: ServerLimits | None = None, ssl: tls.SSLContext | None = None
) -> AsyncIterator[Place]:
    place = Place(handler, limits)
    await place.listen(ssl)
    try:
        yield place
    finally:
        assert place.listener is not None
        place.listener.close()
        place.server.close()
        await asyncio.wait_for(place.server.drain(), 5)
        place.ticker.stop()


async def ask(pool: Pool, parts: tuple[bytes, ...]) -> Ending:
    listener = Ending()
    pool.request(parts, listener, connect_timeout_s=5)
    await asyncio.wait_for(listener.ended.wait(), 10)
    return listener


def echo(request: Request, reply: Reply) -> None:
    if request.path == b"/stream":
        reply.start(200, b"", b"first ")
        asyncio.get_running_loop().call_soon(reply.write, b"second ")
        asyncio.get_running_loop().call_later(0.01, reply.end, b"last")
    else:
        reply.send(200, b"x-peer: %b\r\n" % request.peer.encode(), request.body)


async def test_one_connection_serves_many_requests() -> None:
    async with serving(echo) as place:
        pool = place.pool()
        for number in range(20):
            answer = await ask(pool, post(b"%d" % number))
            assert (answer.status, answer.body, answer.headers[b"x-peer"]) == (200, b"%d" % number, b"127.0.0.1")
        assert (await ask(pool, (b"GET /stream HTTP/1.1\r\nhost: h\r\n\r\n",))).body == b"first second last"
        large = bytes(range(256)) * 40_000
        assert (await ask(pool, post(large))).body == large
        assert (pool.open, pool.idle, place.server.connections_open) == (1, 1, 1)
        assert place.hooks.seen == ["opened"]
        pool.close()


async def test_a_body_larger_than_the_sockets_take_is_no_fault() -> None:
    """The loop tells a connection to pause, and later to go on: it must be able to hear it."""
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with serving(echo) as place:
        pool = place.pool()
        large = bytes(range(256)) * 80_000
        assert (await ask(pool, post(large))).body == large
        pool.close()
    assert faults == []


async def test_many_at_once() -> None:
    async with serving(echo) as place:
        pool = place.pool()
        answers = await asyncio.gather(*(ask(pool, post(b"%d" % number * 1000)) for number in range(100)))
        assert [answer.body for answer in answers] == [b"%d" % number * 1000 for number in range(100)]
        assert pool.idle == pool.open
        pool.close()


async def test_nagle_is_off_on_both_sides() -> None:
    async with serving(echo) as place:
        pool = place.pool()
        await ask(pool, post(b"x"))
        (client,) = pool._connections
        (server,) = place.server._connections
        for transport in (client._transport, server._transport):
            assert transport is not None
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        pool.close()


@pytest.mark.parametrize("half", [True, False])
async def test_a_client_that_leaves_is_noticed(half: bool) -> None:
    seen = Seen()

    def wait(request: Request, reply: Reply) -> None:
        reply.observer = seen
        reply.start(200, b"", b"x")

    async with serving(wait) as place:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"x\r\n")
        if half:
            writer.write_eof()
        else:
            writer.close()
        await asyncio.wait_for(seen.left.wait(), 5)
        assert place.server.connections_open <= 1
        writer.close()


async def test_a_client_that_leaves_behind_pipelined_bytes_is_noticed() -> None:
    seen, asked = Seen(), asyncio.Event()

    def wait(request: Request, reply: Reply) -> None:
        reply.observer = seen
        asked.set()

    async with serving(wait, ServerLimits(pipelined_bytes_max=1000)) as place:
        _, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await asked.wait()
        (connection,) = place.server._connections
        writer.write(b"x" * 2000)
        while not connection._reading_paused:
            await asyncio.sleep(0.001)
        writer.write(b"x" * 30_000)  # stays in the kernel, before the end of the stream
        await asyncio.sleep(0.05)
        assert not seen.left.is_set()
        writer.transport.abort()
        await asyncio.wait_for(seen.left.wait(), 5)


async def test_cancelling_a_request_tells_the_backend() -> None:
    seen = Seen()

    def wait(request: Request, reply: Reply) -> None:
        reply.observer = seen
        reply.start(200, b"", b"x")

    async with serving(wait) as place:
        pool = place.pool()
        listener = Ending()
        ticket = pool.request(post(b"x"), listener, connect_timeout_s=5)
        while not listener.pieces:
            await asyncio.sleep(0.001)
        ticket.cancel()
        await asyncio.wait_for(seen.left.wait(), 5)
        assert "end" not in listener.seen
        assert "failed" not in listener.seen
        assert pool.open == 0


async def test_a_client_that_stops_reading() -> None:
    seen = Seen()
    replies: list[Reply] = []

    def flood(request: Request, reply: Reply) -> None:
        reply.observer = seen
        replies.append(reply)
        reply.start(200, b"")
        while not seen.paused.is_set():
            reply.write(b"x" * 50_000)

    async with serving(flood, ServerLimits(write_timeout_s=0.2)) as place:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port, limit=1000)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.wait_for(seen.paused.wait(), 5)
        await reader.readuntil(b"\r\n\r\n")
        sent = replies[0].bytes_out
        assert sent < 20_000_000
        await asyncio.wait_for(seen.left.wait(), 5)
        replies[0].write(b"late")
        assert replies[0].bytes_out == sent
        writer.transport.abort()


def forgets_to_pause(transport: asyncio.BaseTransport) -> bool:
    """`writelines` of asyncio's own loop never tells the protocol to pause in some Pythons from 3.12 on. A worker runs on uvloop."""
    writelines = vars(type(transport)).get("writelines")
    return inspect.isfunction(writelines) and "_maybe_pause_protocol" not in writelines.__code__.co_names


async def test_back_pressure_goes_through_from_client_to_backend() -> None:
    """What the gateway does: the backend is not read while the client does not take."""
    async with serving(echo) as place:
        _, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.close()
        if forgets_to_pause(writer.transport):
            pytest.skip("asyncio's own loop of this Python has no back-pressure for writelines")
    sent, size = 0, 40_000_000

    def produce(request: Request, reply: Reply) -> None:
        class Producer(Watcher):
            going = True

            def pause_writing(self) -> None:
                self.going = False

            def resume_writing(self) -> None:
                self.going = True
                more()

        producer = reply.observer = Producer()
        reply.start(200, b"")

        def more() -> None:
            nonlocal sent
            while producer.going and sent < size:
                sent += 50_000
                reply.write(b"y" * 50_000)
            if sent >= size and producer.going:
                reply.end()

        more()

    async with serving(produce) as backend:
        pool = backend.pool()

        class Relay(Ending):
            def __init__(self, reply: Reply) -> None:
                super().__init__()
                self.reply = reply
                self.ticket: Any = None

            def response_head(self, status: int, headers: dict[bytes, bytes]) -> None:
                self.reply.start(status, b"")

            def response_body(self, data: bytes) -> None:
                self.reply.write(data)

            def response_end(self) -> None:
                self.reply.end()

            def client_left(self) -> None:
                self.ticket.cancel()

            def pause_writing(self) -> None:
                self.ticket.pause_reading()

            def resume_writing(self) -> None:
                self.ticket.resume_reading()

        def relay(request: Request, reply: Reply) -> None:
            exchange = reply.observer = Relay(reply)
            exchange.ticket = pool.request(post(b""), exchange, connect_timeout_s=5)

        async with serving(relay) as front:
            client = front.pool()
            listener = Ending()
            ticket = client.request(post(b""), listener, connect_timeout_s=5)
            while not listener.pieces:
                await asyncio.sleep(0.001)
            ticket.pause_reading()
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.1)
            assert sent < size
            ticket.resume_reading()
            await asyncio.wait_for(listener.ended.wait(), 20)
            assert len(listener.body) == size
            client.close()
        pool.close()


async def test_a_body_that_is_too_large_is_answered_and_the_answer_arrives() -> None:
    async with serving(echo, ServerLimits(body_bytes_max=1000)) as place:
        pool = place.pool()
        answer = await ask(pool, post(b"x" * 5_000_000))
        assert (answer.status, answer.headers[b"connection"]) == (413, b"close")
        chunked = b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n" + (b"fff\r\n" + b"x" * 4095 + b"\r\n") * 500
        assert (await ask(pool, (chunked,))).status == 413
        assert pool.open == 0


async def test_a_backend_that_closes_idle_connections() -> None:
    async with serving(echo, ServerLimits(idle_timeout_s=0.05)) as place:
        pool = place.pool()
        for _ in range(3):
            assert (await ask(pool, post(b"x"))).status == 200
            while pool.idle:
                await asyncio.sleep(0.01)
            assert pool.open == 0


async def test_a_backend_that_closes_just_as_it_is_asked() -> None:
    """The race of keep-alive: the failure says `closed`, sent, nothing received, reused."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        loop = asyncio.get_running_loop()
        pool = Pool("127.0.0.1", listening.getsockname()[1], limits=ClientLimits(), loop=loop, ticker=Ticker(loop))
        first = asyncio.create_task(ask(pool, post(b"x")))
        backend, _ = await loop.sock_accept(listening)
        await loop.sock_recv(backend, 1000)
        await loop.sock_sendall(backend, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await first
        backend.close()  # not yet heard of: the loop has not run
        answer = await ask(pool, post(b"y"))
    assert answer.failure is not None
    assert (answer.failure.kind, answer.failure.sent, answer.failure.received, answer.failure.reused) == ("closed", True, False, True)


@pytest.mark.parametrize("junk", [b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n", b"\x00"])
async def test_bytes_that_nobody_asked_for_are_given_to_nobody(junk: bytes) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        pool = Pool("127.0.0.1", listening.getsockname()[1], limits=ClientLimits(), loop=loop, ticker=Ticker(loop))
        first = asyncio.create_task(ask(pool, post(b"x")))
        backend, _ = await loop.sock_accept(listening)
        await loop.sock_recv(backend, 1000)
        await loop.sock_sendall(backend, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await first
        assert pool.idle == 1
        await loop.sock_sendall(backend, junk)
        while pool.open:
            await asyncio.sleep(0.001)
        backend.close()


async def test_draining() -> None:
    replies: list[Reply] = []

    def hold(request: Request, reply: Reply) -> None:
        if request.body == b"hold":
            replies.append(reply)
        else:
            echo(request, reply)

    async with serving(hold, ServerLimits(parting_timeout_s=0.1)) as place:
        pool = place.pool()
        held = asyncio.create_task(ask(pool, post(b"hold")))
        while not replies:
            await asyncio.sleep(0.001)
        await ask(pool, post(b"quick"))
        assert place.server.connections_open == 2
        assert place.listener is not None
        place.listener.close()
        drained = place.server.drain()
        while pool.idle:
            await asyncio.sleep(0.001)
        assert not drained.done()
        replies[0].send(200, b"", b"at last")
        answer = await held
        assert (answer.body, answer.headers[b"connection"]) == (b"at last", b"close")
        await asyncio.wait_for(drained, 5)
        assert place.server.connections_open == 0


async def test_a_name_is_resolved() -> None:
    async with serving(echo) as place:
        pool = place.pool(host="localhost")
        assert (await ask(pool, post(b"x"))).status == 200
        pool.close()


async def test_tls_both_ways(certificate: tuple[str, str]) -> None:
    cert, key = certificate
    async with serving(echo, ssl=server_context(cert, key)) as place:
        pool = place.pool(ssl=client_context(cert), server_hostname="localhost")
        for body in (b"x", b"y" * 1_000_000):
            assert (await ask(pool, post(body))).body == body
        assert (await ask(pool, (b"GET /stream HTTP/1.1\r\nhost: h\r\n\r\n",))).body == b"first second last"
        assert pool.open == 1
        (connection,) = pool._connections
        assert connection._transport is not None
        assert connection._transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        pool.close()


async def test_tls_refuses_a_wrong_name_and_an_unknown_authority(certificate: tuple[str, str]) -> None:
    cert, key = certificate
    async with serving(echo, ssl=server_context(cert, key)) as place:
        for options in ({"ssl": client_context(cert), "server_hostname": "other"}, {"ssl": client_context("")}):
            pool = place.pool(host="localhost", **options)
            answer = await ask(pool, post(b"x"))
            assert answer.failure is not None
            assert (answer.failure.kind, answer.failure.sent) == ("connect", False)
            assert "certificate" in answer.failure.message.lower()
            assert pool.open == 0


async def test_tls_refuses_a_name_that_only_the_subject_has(nameless_certificate: tuple[str, str]) -> None:
    cert, key = nameless_certificate
    async with serving(echo, ssl=server_context(cert, key)) as place:
        answer = await ask(place.pool(host="localhost", ssl=client_context(cert)), post(b"x"))
        assert answer.failure is not None
        assert (answer.failure.kind, answer.failure.sent) == ("connect", False)
        assert "certificate" in answer.failure.message.lower()


async def test_a_body_that_is_too_large_over_tls(certificate: tuple[str, str]) -> None:
    cert, key = certificate
    async with serving(echo, ServerLimits(body_bytes_max=1000, linger_timeout_s=0.5), ssl=server_context(cert, key)) as place:
        pool = place.pool(ssl=client_context(cert), server_hostname="localhost")
        assert (await ask(pool, post(b"x" * 1_000_000))).status == 413


async def test_leaving_over_tls_is_noticed(certificate: tuple[str, str]) -> None:
    cert, key = certificate
    seen = Seen()

    def wait(request: Request, reply: Reply) -> None:
        reply.observer = seen
        reply.start(200, b"", b"x")

    async with serving(wait, ssl=server_context(cert, key)) as place:
        pool = place.pool(ssl=client_context(cert), server_hostname="localhost")
        listener = Ending()
        ticket = pool.request(post(b"x"), listener, connect_timeout_s=5)
        while not listener.pieces:
            await asyncio.sleep(0.001)
        ticket.cancel()
        await asyncio.wait_for(seen.left.wait(), 5)


async def test_plain_http_to_a_tls_port_and_the_other_way_round(certificate: tuple[str, str]) -> None:
    cert, key = certificate
    async with serving(echo, ssl=server_context(cert, key)) as place:
        answer = await ask(place.pool(), post(b"x"))
        assert answer.failure is not None
        assert answer.failure.kind in ("closed", "protocol")
    async with serving(echo) as place:
        answer = await ask(place.pool(ssl=client_context(cert), server_hostname="localhost"), post(b"x"))
        assert answer.failure is not None
        assert answer.failure.kind == "connect"
