"""Clients that stop reading, and clients that leave: the backend is held back, or let go at once."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.gateway import chat, eventually
from tests.e2e.site import Site, raw, site
from tests.standin import Conversation, chunk, speaks

POLICY = """
version: 1
backends:
  - {name: small, kind: openai, replicas: ["SMALL"], model: tiny}
  - {name: big, kind: openai, replicas: ["BIG"], model: huge}
routes:
  - {name: main, matches: [{models: [chat]}], failover: [small, big]}
"""
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Site]:
    async with site(POLICY) as found:
        yield found


@pytest.fixture(autouse=True)
def fresh(running: Site) -> None:
    running.play()


def resident_kib(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


async def test_a_client_that_stops_reading_holds_the_backend_back(running: Site) -> None:
    """64 MiB are on offer; what stands between the two sides is bounded, and all of it comes when the client reads on."""
    piece, pieces = chunk("x" * 32_000), 2_000
    sent = 0

    async def script(c: Conversation) -> None:
        nonlocal sent
        await c.start_stream()
        for _ in range(pieces):
            await c.event(piece)
            sent += 1
        await c.event(chunk("", "stop"))
        await c.end_stream()

    running.play(small=script)
    (worker,) = running.gateway.pids("worker")
    before = resident_kib(worker)
    async with raw(running.gateway, limit=2**16) as client:
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        await client.ask(chat(stream=True))
        await client.head()

        async def stalled() -> bool:
            seen = sent
            await asyncio.sleep(0.4)
            return 0 < seen == sent

        await eventually(stalled, 20)
        assert sent < pieces / 4
        assert resident_kib(worker) - before < 8 * 1024
        other = await running.client().post("/v1/models")
        assert other.status_code == 405, "nobody else waits"

        received = 0
        async with asyncio.timeout(30):
            while not (data := await client.reader.read(2**18)).endswith(b"0\r\n\r\n"):
                assert data
                received += len(data)
        assert received > pieces * 32_000
        assert sent == pieces
        assert resident_kib(worker) - before < 16 * 1024


async def released(running: Site) -> None:
    """The backend's connection is closed, of which nothing else would make an end."""

    async def look() -> bool:
        return running.small.generating == 0

    await eventually(look)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_before_the_first_byte(running: Site, stream: bool, how: str) -> None:
    asked = asyncio.Event()

    async def script(c: Conversation) -> None:
        asked.set()
        await c.until_closed()

    running.play(small=script)
    name = 'headgate_requests_total{code="499",reason="primary",route="main"}'
    before = (await running.gateway.scrape()).get(name, 0)
    request_id = f"leaves-{stream}-{how}"
    async with raw(running.gateway) as client:
        await client.ask(chat(stream=stream), headers=f"x-request-id: {request_id}\r\n")
        await asyncio.wait_for(asked.wait(), 5)
        if how == "close":
            client.writer.close()
        else:
            client.close()
        await released(running)
    assert running.big.asked == [], "nobody is asked for a client that left"
    record = await by_request_id(running, request_id)
    assert (record["code"], record["error"], record["truncated_by_client"], record["committed"]) == (499, "the client left", True, None)
    assert [call["result"] for call in record["calls"]] == ["cancelled"]
    await running.counted(name, at_least=before + 1)
    await running.counted('headgate_client_disconnects_total{phase="before_commit"}', at_least=1)


async def test_a_client_that_leaves_in_the_middle(running: Site) -> None:
    async def script(c: Conversation) -> None:
        await c.start_stream()
        await c.event(chunk("one"))
        await c.until_closed()

    running.play(small=script)
    async with raw(running.gateway) as client:
        await client.ask(chat(stream=True), headers="x-request-id: leaves-in-the-middle\r\n")
        _, headers = await client.head()
        await client.reader.readuntil(b"one")
        client.close()
        await released(running)
    record = await running.gateway.exchange(headers["x-headgate-exchange-id"])
    assert (record["code"], record["backend"], record["truncated_by_client"]) == (499, "small", True)
    assert record["committed"] is not None
    assert record["request_id"] == "leaves-in-the-middle"
    assert [call["result"] for call in record["calls"]] == ["cancelled"]
    await running.counted('headgate_client_disconnects_total{phase="after_commit"}', at_least=1)
    errors = [name for name in await running.gateway.scrape() if "upstream_calls_total" in name and 'result="truncated"' in name]
    assert all([(await running.gateway.scrape())[name] == 0 for name in errors]), "it is no error of the backend's"


async def test_a_client_that_leaves_while_its_backend_does_not_wait(running: Site) -> None:
    """The gateway holds nothing that could still come: the backend's writes fail."""
    failed = asyncio.Event()

    async def script(c: Conversation) -> None:
        await c.start_stream()
        try:
            while True:
                await c.event(chunk("word "))
                await asyncio.sleep(0.01)
        except ConnectionError:
            failed.set()
            raise

    running.play(small=script)
    async with raw(running.gateway) as client:
        await client.ask(chat(stream=True))
        await client.head()
        client.close()
        await asyncio.wait_for(failed.wait(), 5)


async def test_requests_of_one_connection_are_answered_in_their_order(running: Site) -> None:
    running.play(small=speaks("one two"))
    async with raw(running.gateway) as client:
        for number in range(3):
            await client.ask(chat(), headers=f"x-request-id: pipelined-{number}\r\n")
        for number in range(3):
            status, headers, body = await client.answer()
            assert (status, headers["x-request-id"]) == (200, f"pipelined-{number}")
            assert body["choices"][0]["message"]["content"] == "one two"


async def test_a_hundred_clients_at_once(running: Site) -> None:
    running.play(small=speaks("a b c d e"))
    async with running.client() as client:
        answers = await asyncio.gather(*(client.post("/v1/chat/completions", json=chat(stream=True)) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["x-headgate-exchange-id"] for answer in answers}) == 100
    assert all(answer.content.endswith(b"data: [DONE]\n\n") for answer in answers)


async def by_request_id(running: Site, request_id: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        found = await running.gateway.ask_admin("/exchanges?limit=100")
        listed = found["exchanges"] if isinstance(found, dict) else found
        return next((record for record in listed if record["request_id"] == request_id), None)

    found = await eventually(look)
    assert isinstance(found, dict)
    exchange_id = found["exchange_id"]
    assert isinstance(exchange_id, str)
    return await running.gateway.exchange(exchange_id)
