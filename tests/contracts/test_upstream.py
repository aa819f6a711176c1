"""What every `Upstream` promises: one suite over `HttpUpstream` on real sockets and over `FakeUpstream`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.telemetry.counters import Counters
from gateway.upstream.address import Address
from gateway.upstream.base import Ask
from gateway.upstream.fake import FakeUpstream
from gateway.upstream.http import HttpUpstream
from gateway.wire.base import ClientLimits
from gateway.wire.pool import Pool
from gateway.wire.ticker import Ticker
from policies.plan import CallError
from tests.gateway.upstream.rig import Listener, backend

WAIT_S = 5


class FakeSide:
    """The backend's side of a `FakeUpstream`."""

    def __init__(self) -> None:
        self.upstream = FakeUpstream("small")

    async def asked(self, call: Any) -> bytes:
        return call.request_body

    async def head(self, call: Any, status: int) -> None:
        call.head(status)

    async def body(self, call: Any, data: bytes) -> None:
        call.body(data)

    async def end(self, call: Any) -> None:
        call.end()

    async def break_off(self, call: Any, *, headed: bool) -> None:
        call.fail(CallError("truncated" if headed else "closed", "gone"))

    async def settle(self) -> None:
        await asyncio.sleep(0)

    async def close(self) -> None:
        self.upstream.close()


class HttpSide:
    """The backend's side of an `HttpUpstream`: a chunked server that writes when told. One call at a time has its turn."""

    def __init__(self) -> None:
        self._arrivals: asyncio.Queue[tuple[bytes, asyncio.StreamWriter]] = asyncio.Queue()
        self._writers: dict[int, asyncio.StreamWriter] = {}

    async def start(self) -> HttpSide:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        self._ticker = Ticker(loop, 3600)
        self.upstream = HttpUpstream(
            backend(replicas=[f"http://127.0.0.1:{port}"], retries={"attempts": 1}),
            loop=loop,
            counters=Counters(),
            open_pool=self._open_pool,
            ticker=self._ticker,
        )
        return self

    def _open_pool(self, address: Address) -> Pool:
        self._pool = Pool(address.host, address.port, limits=ClientLimits(), loop=asyncio.get_running_loop(), ticker=self._ticker)
        return self._pool

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                self._arrivals.put_nowait((await reader.readexactly(length), writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def asked(self, call: Any) -> bytes:
        body, self._writers[id(call)] = await asyncio.wait_for(self._arrivals.get(), WAIT_S)
        return body

    async def _write(self, call: Any, data: bytes) -> None:
        writer = self._writers[id(call)]
        if not writer.is_closing():
            writer.write(data)
        await self.settle()

    async def head(self, call: Any, status: int) -> None:
        await self._write(call, b"HTTP/1.1 %d X\r\ntransfer-encoding: chunked\r\n\r\n" % status)

    async def body(self, call: Any, data: bytes) -> None:
        await self._write(call, b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self, call: Any) -> None:
        await self._write(call, b"0\r\n\r\n")

    async def break_off(self, call: Any, *, headed: bool) -> None:
        self._writers[id(call)].close()
        await self.settle()

    async def settle(self) -> None:
        """Until what was written has gone round: a round trip through the same loop's sockets."""
        done = asyncio.Event()

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            writer.close()
            done.set()

        for _ in range(3):
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"x\n")
            await reader.readline()
            writer.close()
            server.close()

    async def close(self) -> None:
        self.upstream.close()
        self._ticker.stop()
        await self._pool.abort()
        self._server.close()


@pytest.fixture(params=["http", "fake"])
async def side(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    made: Any = await HttpSide().start() if request.param == "http" else FakeSide()
    yield made
    await made.close()


def ask(**fields: Any) -> Ask:
    defaults: dict[str, Any] = {
        "path": b"/v1/chat/completions",
        "body": (b'{"model":', b'"m"}'),
        "headers": b"",
        "stream": True,
        "deadline": asyncio.get_running_loop().time() + 60,
    }
    return Ask(**(defaults | fields))


async def begin(side: Any) -> tuple[Any, Listener]:
    listener = Listener()
    call = side.upstream.call(ask(), listener)
    assert listener.heard == []
    assert await side.asked(call) == b'{"model":"m"}'
    return call, listener


def body(listener: Listener) -> bytes:
    return b"".join(entry[1] for entry in listener.heard if entry[0] == "body")


async def test_has_its_backends_name(side: Any) -> None:
    assert side.upstream.name == "small"


async def test_a_reply_in_order(side: Any) -> None:
    call, listener = await begin(side)
    await side.head(call, 200)
    await side.body(call, b"one ")
    await side.body(call, b"two")
    await side.end(call)
    assert listener.words[0] == "head"
    assert listener.words[-1] == "end"
    assert set(listener.words[1:-1]) == {"body"}
    assert body(listener) == b"one two"
    assert [attempt.result for attempt in call.attempts] == ["ok"]


async def test_content_arrives_as_it_is_sent(side: Any) -> None:
    call, listener = await begin(side)
    await side.head(call, 200)
    await side.body(call, b"one")
    assert body(listener) == b"one"
    call.content_seen()
    call.content_seen()
    await side.body(call, b"two")
    assert body(listener) == b"onetwo"
    assert listener.words.count("head") == 1


async def test_an_error_status_is_a_reply(side: Any) -> None:
    call, listener = await begin(side)
    await side.head(call, 418)
    await side.body(call, b"teapot")
    await side.end(call)
    assert listener.heard == [("head", 418), ("body", b"teapot"), ("end",)]
    assert call.attempts[-1].result == "status:418"


@pytest.mark.parametrize("headed", [False, True])
async def test_a_failure_is_heard_once_and_is_the_last_word(side: Any, headed: bool) -> None:
    call, listener = await begin(side)
    if headed:
        await side.head(call, 200)
        await side.body(call, b"half")
    await side.break_off(call, headed=headed)
    assert listener.words.count("failure") == 1
    assert listener.words[-1] == "failure"
    assert listener.error.kind == call.attempts[-1].result == ("truncated" if headed else "closed")


@pytest.mark.parametrize("headed", [False, True])
async def test_nothing_is_heard_after_cancel(side: Any, headed: bool) -> None:
    call, listener = await begin(side)
    if headed:
        await side.head(call, 200)
    before = list(listener.heard)
    call.cancel()
    call.cancel()
    if not headed:
        await side.head(call, 200)
    await side.body(call, b"late")
    await side.end(call)
    assert listener.heard == before
    assert call.attempts[-1].result == "cancelled"


async def test_nothing_is_heard_after_a_fault(side: Any) -> None:
    call, listener = await begin(side)
    await side.head(call, 200)
    call.fault(CallError("protocol", "not SSE"))
    await side.body(call, b"late")
    await side.end(call)
    assert listener.words == ["head"]
    assert call.attempts[-1].result == "protocol"


async def test_a_fault_at_the_end_is_the_result(side: Any) -> None:
    call, listener = await begin(side)
    listener.at_end = lambda: call.fault(CallError("truncated", "no finish_reason"))
    await side.head(call, 200)
    await side.end(call)
    assert listener.words == ["head", "end"]
    assert call.attempts[-1].result == "truncated"


async def test_cancel_after_the_end_changes_nothing(side: Any) -> None:
    call, listener = await begin(side)
    await side.head(call, 200)
    await side.end(call)
    call.cancel()
    assert listener.words == ["head", "end"]
    assert call.attempts[-1].result == "ok"


async def test_a_pause_loses_nothing(side: Any) -> None:
    call, listener = await begin(side)
    await side.head(call, 200)
    call.pause_reading()
    call.resume_reading()
    await side.body(call, b"all of it")
    await side.end(call)
    assert body(listener) == b"all of it"
    call.pause_reading()
    call.resume_reading()


async def test_a_retired_upstream_ends_what_it_began(side: Any) -> None:
    call, listener = await begin(side)
    side.upstream.close()
    await side.head(call, 200)
    await side.end(call)
    assert listener.words == ["head", "end"]


async def test_calls_are_apart(side: Any) -> None:
    first, hears_first = await begin(side)
    second, hears_second = await begin(side)
    await side.head(second, 200)
    first.cancel()
    await side.body(second, b"mine")
    await side.end(second)
    assert hears_first.heard == []
    assert body(hears_second) == b"mine"
