"""Replicas of one backend: killed, stopped, full; and who of them gets what."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio

from tests.e2e.backend_process import BackendProcess, backend_process
from tests.e2e.gateway import Gateway, chat, events, eventually, gateway, said
from tests.e2e.load import Asked, load
from tests.standin import Conversation, Standin, completion, speaks, standin

POLICY = """
version: 1
backends:
  - name: pair
    kind: openai
    replicas: ["{first}", "{second}"]
    model: tiny
    timeouts: {{first_token: 3s}}
    breaker: {{failures: 3, open_for: 500ms}}
    readiness: {{every: 300ms}}
  - {{name: sticky, kind: openai, replicas: ["{first}", "{second}"], model: tiny, balance: prefix_hash, readiness: {{every: 300ms}}}}
  - name: narrow
    kind: openai
    replicas: ["{third}"]
    model: tiny
    concurrency: {{limit: 2, queue: 2, queue_for: 700ms}}
routes:
  - {{name: pair, matches: [{{models: [chat]}}], backend: pair}}
  - {{name: sticky, matches: [{{models: [sticky]}}], backend: sticky}}
  - {{name: narrow, matches: [{{models: [narrow]}}], backend: narrow}}
"""
pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Pair:
    gateway: Gateway
    first: BackendProcess
    second: BackendProcess
    third: Standin

    async def ready(self, **expected: bool) -> None:
        """Wait until the workers have been told so of the replicas of `pair`."""
        wanted = {getattr(self, name).url: ready for name, ready in expected.items()}

        async def look() -> bool:
            backends = (await self.gateway.ask_admin("/status"))["backends"]
            replicas = next(each["replicas"] for each in backends if each["backend"] == "pair")
            found = {each["replica"]: each["ready"] for each in replicas if each["replica"] in wanted}
            return found == wanted and not any(each["breakers_open"] for each in replicas if wanted.get(each["replica"]))

        await eventually(look, 20)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair() -> AsyncIterator[Pair]:
    async with backend_process() as first, backend_process() as second, standin(speaks("hello")) as third:
        policy = POLICY.format(first=first.url, second=second.url, third=third.url)
        async with gateway(policy) as running:
            yield Pair(running, first, second, third)


def who(text: str) -> int:
    """The port of the replica that said this."""
    found = re.search(r"from (\d+)", text)
    assert found is not None, text
    return int(found[1])


def shares(asked: Iterable[Asked]) -> Counter[int]:
    return Counter(who(said(each.body) if each.stream else each.body.decode()) for each in asked if each.good)


@pytest.mark.key("backends[].breaker.open_for")
async def test_a_killed_replica_fails_no_request_whose_answer_had_not_begun(pair: Pair) -> None:
    await pair.ready(first=True, second=True)
    async with load(pair.gateway.data, clients=32) as clients:
        await clients.more(100)
        killed_at = time.monotonic()
        await pair.first.kill()
        await clients.more(300)
        await pair.ready(first=False)
        down_at = time.monotonic()
        await clients.more(64)
        await pair.first.start()
        up_at = time.monotonic()
        await clients.more(64)
        await pair.ready(first=True, second=True)
        ready_at = time.monotonic()
        await clients.more(200)
    # What had begun and cannot go on is told so, in the stream.
    for each in clients.bad:
        assert each.stream, str(each)
        assert (each.status, each.broke) == (200, ""), str(each)
        assert each.started < killed_at
        assert who(said(each.body)) == pair.first.port
        *_, error, done = events(each.body)
        assert (error["error"]["type"], done) == ("server_error", "[DONE]")
    assert len(clients.bad) <= 16
    assert shares(each for each in clients.done if down_at < each.started and each.ended < up_at).keys() <= {pair.second.port}
    back = shares(each for each in clients.done if each.started > ready_at)
    assert min(back[pair.first.port], back[pair.second.port]) > 0.3 * sum(back.values()), back
    counted = await pair.gateway.scrape()
    assert counted['headgate_upstream_retries_total{backend="pair",result="closed"}'] > 0


@pytest.mark.key("backends[].readiness.every")
async def test_a_replica_that_answers_no_prompt_gets_no_traffic_until_it_does(pair: Pair) -> None:
    await pair.ready(first=True, second=True)
    pair.second.signal(signal.SIGSTOP)
    try:
        await pair.ready(second=False)
        assert (await pair.gateway.scrape())[f'headgate_backend_ready{{backend="pair",replica="{pair.second.url}"}}'] == 0
        async with load(pair.gateway.data, clients=4) as clients:
            await clients.more(20)
        clients.all_good()
        assert shares(clients.done).keys() == {pair.first.port}
    finally:
        pair.second.signal(signal.SIGCONT)
    await pair.ready(first=True, second=True)
    async with load(pair.gateway.data, clients=4) as clients:
        await clients.more(20)
    clients.all_good()
    assert shares(clients.done)[pair.second.port] > 0


@pytest.mark.key("backends[].balance")
async def test_least_outstanding_spreads(pair: Pair) -> None:
    await pair.ready(first=True, second=True)
    async with pair.gateway.client() as client:
        answers = await asyncio.gather(*(client.post("/v1/chat/completions", json=chat()) for _ in range(24)))
    spread = Counter(who(answer.text) for answer in answers)
    assert max(spread.values()) - min(spread.values()) <= 4, spread


@pytest.mark.key("backends[].balance")
async def test_prefix_hash_keeps_a_conversation_where_it_is(pair: Pair) -> None:
    await pair.ready(first=True, second=True)
    places: dict[int, set[int]] = {}
    async with pair.gateway.client() as client:
        for conversation in range(12):
            turns = [{"role": "system", "content": "You help."}, {"role": "user", "content": f"question {conversation}"}]
            for turn in range(3):
                answer = await client.post("/v1/chat/completions", json={"model": "sticky", "messages": turns})
                places.setdefault(conversation, set()).add(who(answer.text))
                turns += [{"role": "assistant", "content": "answer"}, {"role": "user", "content": f"and {turn}?"}]
    assert all(len(each) == 1 for each in places.values()), places
    assert len(set.union(*places.values())) == 2


@pytest.mark.key("backends[].concurrency.limit", "backends[].concurrency.queue", "backends[].concurrency.queue_for")
async def test_a_full_queue_refuses_and_says_when_to_come_again(pair: Pair) -> None:
    go_on = asyncio.Event()

    async def waits(c: Conversation) -> None:
        await go_on.wait()
        await c.json(completion())

    pair.third.script = waits
    async with pair.gateway.client() as client:

        async def ask() -> httpx.Response:
            return await client.post("/v1/chat/completions", json=chat(model="narrow"))

        async def both_asked() -> bool:
            return pair.third.generating == 2

        served = [asyncio.create_task(ask()) for _ in range(2)]
        await eventually(both_asked)
        rest = await asyncio.gather(*(ask() for _ in range(5)))
        assert {(answer.status_code, answer.json()["error"]["code"]) for answer in rest} == {(503, "overloaded")}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in rest)
        assert pair.third.generating == 2
        waiting = asyncio.create_task(ask())
        go_on.set()
        assert [answer.status_code for answer in await asyncio.gather(*served, waiting)] == [200] * 3
    await pair.gateway.metric('headgate_upstream_queue_refused_total{backend="narrow",why="full"}', 3)
    await pair.gateway.metric('headgate_upstream_queue_refused_total{backend="narrow",why="timeout"}', 2)
