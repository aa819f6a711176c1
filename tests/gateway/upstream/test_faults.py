"""Whole calls over real sockets, pool and all: what each way of failing comes to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.telemetry.counters import Counters
from gateway.upstream.address import Address
from gateway.upstream.base import Ask
from gateway.upstream.http import HttpUpstream
from gateway.wire.base import ClientLimits
from gateway.wire.pool import Pool
from gateway.wire.ticker import Ticker
from tests.gateway.upstream.replicas import RealReplica, answers, closes, dies_mid_body, garbage, hangs, refused_url
from tests.gateway.upstream.rig import Listener, backend


class Waiting(Listener):
    """A listener that one can wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.done = asyncio.Event()
        self.headed = asyncio.Event()

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        super().on_head(status, headers)
        self.headed.set()

    def on_end(self) -> None:
        super().on_end()
        self.done.set()

    def on_failure(self, error: Any) -> None:
        super().on_failure(error)
        self.done.set()

    @property
    def body(self) -> bytes:
        return b"".join(entry[1] for entry in self.heard if entry[0] == "body")


class Live:
    """An upstream on real pools; sweeps are made by hand."""

    def __init__(self, *urls: str, **fields: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.ticker = Ticker(self.loop, 3600)
        self.pools: list[Pool] = []
        fields = {"retries": {"attempts": 3, "backoff": 0.001}} | fields
        self.upstream = HttpUpstream(
            backend(replicas=list(urls), **fields),
            loop=self.loop,
            counters=Counters(),
            open_pool=self._open_pool,
            ticker=self.ticker,
        )

    def _open_pool(self, address: Address) -> Pool:
        pool = Pool(address.host, address.port, limits=ClientLimits(), loop=self.loop, ticker=self.ticker)
        self.pools.append(pool)
        return pool

    def start(self, *, stream: bool = False) -> tuple[Any, Waiting]:
        listener = Waiting()
        ask = Ask(b"/v1/chat/completions", (b'{"model":', b'"m"}'), b"", stream, self.loop.time() + 60)
        return self.upstream.call(ask, listener), listener

    async def whole(self) -> tuple[Any, Waiting]:
        call, listener = self.start()
        await asyncio.wait_for(listener.done.wait(), 5)
        return call, listener

    async def close(self) -> None:
        self.upstream.close()
        self.ticker.stop()
        for pool in self.pools:
            await pool.abort()


async def test_a_reply_and_a_second_on_the_same_connection():
    async with RealReplica(answers(200, b"hello")) as replica:
        live = Live(replica.url + "/base")
        for _ in range(2):
            _, listener = await live.whole()
            assert listener.heard == [("head", 200), ("body", b"hello"), ("end",)]
        assert replica.connections == 1
        assert replica.seen[0].path == "/base/v1/chat/completions"
        assert replica.seen[0].json == {"model": "m"}
        await live.close()


async def test_refused_goes_to_the_other():
    async with RealReplica(answers()) as good:
        live = Live(await refused_url(), good.url)
        call, listener = await live.whole()
        assert listener.words == ["head", "body", "end"]
        assert [attempt.result for attempt in call.attempts] == ["connect", "ok"]
        await live.close()


async def test_refused_everywhere():
    live = Live(await refused_url(), await refused_url())
    call, listener = await live.whole()
    assert listener.error.kind == "connect"
    assert len(call.attempts) == 3
    await live.close()


async def test_accepts_and_closes():
    async with RealReplica(closes) as bad, RealReplica(answers()) as good:
        live = Live(bad.url, good.url)
        call, listener = await live.whole()
        assert listener.words == ["head", "body", "end"]
        assert [attempt.result for attempt in call.attempts] == ["closed", "ok"]
        await live.close()


async def test_429_with_retry_after_goes_to_the_other_and_keeps_its_connection():
    async with RealReplica(answers(429, b"busy", "retry-after: 4")) as busy, RealReplica(answers()) as good:
        live = Live(busy.url, good.url)
        _, listener = await live.whole()
        assert listener.words == ["head", "body", "end"]
        assert live.pools[0].idle == 1
        await live.close()


async def test_503_then_well():
    async with RealReplica(answers(503, b"starting"), answers(200, b"up")) as replica:
        live = Live(replica.url)
        call, listener = await live.whole()
        assert listener.body == b"up"
        assert [attempt.result for attempt in call.attempts] == ["status:503", "ok"]
        await live.close()


@pytest.mark.parametrize(("act", "kind", "headed"), [(dies_mid_body, "truncated", True), (garbage, "protocol", False)])
async def test_what_breaks_in_the_answer_is_final(act, kind, headed):
    async with RealReplica(act) as bad, RealReplica(answers()) as good:
        live = Live(bad.url, good.url)
        call, listener = await live.whole()
        assert listener.error.kind == kind
        assert (listener.words[0] == "head") == headed
        assert len(call.attempts) == 1
        assert not good.seen
        await live.close()


async def test_silence_times_out_and_hangs_up():
    async with RealReplica(hangs) as silent, RealReplica(answers()) as good:
        live = Live(silent.url, good.url, timeouts={"first_token": 5})
        call, listener = live.start(stream=True)
        await silent.arrived.wait()
        live.ticker.tick(live.loop.time() + 4.9)
        assert not listener.heard
        live.ticker.tick(live.loop.time() + 5.1)
        assert listener.error.kind == "timeout_first_token"
        await asyncio.wait_for(silent.hung_up.wait(), 5)
        assert not good.seen
        assert len(call.attempts) == 1
        await live.close()


async def test_cancel_hangs_up():
    async with RealReplica(hangs) as silent:
        live = Live(silent.url)
        call, listener = live.start()
        await silent.arrived.wait()
        call.cancel()
        await asyncio.wait_for(silent.hung_up.wait(), 5)
        assert listener.heard == []
        await live.close()


async def test_a_connection_closed_while_idle_costs_no_request():
    """The keep-alive race: the replica closes after its answer, just as the next request may go out."""

    async def answers_and_closes(seen: Any, writer: Any) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        return False

    async with RealReplica(answers_and_closes) as replica:
        live = Live(replica.url, retries={"attempts": 3, "budget_percent": 100, "backoff": 0.001})
        for _ in range(50):
            _, listener = await live.whole()
            assert listener.words == ["head", "body", "end"]
        await live.close()


async def test_a_replica_killed_under_load_fails_nothing_that_had_not_begun():
    async with RealReplica(hangs) as dying, RealReplica(answers()) as good:
        live = Live(dying.url, good.url)
        calls = [live.start() for _ in range(40)]
        await dying.arrived.wait()
        while len(dying.seen) < 20:
            await asyncio.sleep(0)
        await dying.__aexit__()
        for _, listener in calls:
            await asyncio.wait_for(listener.done.wait(), 5)
            assert listener.words == ["head", "body", "end"]
        await live.close()
