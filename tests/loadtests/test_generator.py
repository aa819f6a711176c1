"""The generator counts what the mock answers, and does not take a broken answer for a good one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from loadtests.generator import Plan, run
from loadtests.mock import BURST, Mock, MockServer
from tests.standin import Conversation, chunk, standin

EVENTS = 32


@asynccontextmanager
async def mock() -> AsyncIterator[tuple[MockServer, str]]:
    server = MockServer(EVENTS, 0.001)
    listening = await asyncio.get_running_loop().create_server(lambda: Mock(server), "127.0.0.1", 0)
    ticking = asyncio.create_task(server.tick())
    try:
        yield server, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        ticking.cancel()
        with suppress(asyncio.CancelledError):
            await ticking


@pytest.mark.parametrize("kind", ["whole", "stream", "mixed"])
@pytest.mark.parametrize("cold", [False, True])
async def test_counts_agree(kind: str, cold: bool) -> None:
    async with mock() as (server, url):
        seen = await run(Plan(url, 8, 0.2, stream=kind == "stream", mixed=kind == "mixed", cold=cold, events=EVENTS))
    assert seen["errors"] == {}
    assert (seen["requests"], seen["events"]) == (server.answered, server.events)
    assert (seen["events"] == seen["streams"] == 0) == (kind == "whole")
    assert (server.connections > 8) == cold


@pytest.mark.parametrize("mode", ["burst", "logprobs", "scored"])
async def test_every_mode_of_the_mock_gives_whole_streams_of_json(mode: str) -> None:
    async with mock() as (server, url):
        server.mode = mode
        seen = await run(Plan(url, 4, 0.1, stream=True, events=EVENTS, once=True))
        assert (seen["errors"], seen["requests"]) == ({}, 4)
        beat = server.answers.stamped(mode)
    events = [json.loads(line[6:]) for line in beat.split(b"\n") if line.startswith(b"data: ")]
    assert len(events) == (BURST if mode == "burst" else 1)
    assert all(each["choices"][0]["delta"]["content"].startswith("@") for each in events)
    assert (events[0]["choices"][0]["logprobs"] is not None) == (mode in ("logprobs", "scored"))


@pytest.mark.parametrize(("mode", "count"), [("held", 1), ("holding", 16)])
async def test_streams_that_stand_still_have_begun(mode: str, count: int) -> None:
    async with mock() as (server, url):
        server.mode = mode
        asking = asyncio.create_task(run(Plan(url, 4, 5.0, stream=True, events=EVENTS, once=True)))
        async with asyncio.timeout(5):
            while server.events < 4 * count:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        assert server.events == 4 * count
        server.mode = "plain"
        seen = await asking
    assert (seen["errors"], seen["events"]) == ({}, 4 * EVENTS)


async def breaks_off(c: Conversation) -> None:
    await c.start_stream()
    await c.event(chunk("@0000000000000001"))
    c.reset()


async def leaves_done_out(c: Conversation) -> None:
    await c.start_stream()
    for _ in range(EVENTS):
        await c.event(chunk("@0000000000000001"))
    await c.end_stream(done=False)


async def says_too_little(c: Conversation) -> None:
    await c.start_stream()
    await c.event(chunk("@0000000000000001"))
    await c.end_stream()


@pytest.mark.parametrize(
    ("script", "why"), [(breaks_off, "cut off"), (leaves_done_out, "no [DONE]"), (says_too_little, "1 events")], ids=lambda x: str(x)[:20]
)
async def test_a_broken_stream_is_an_error(script: object, why: str) -> None:
    async with standin(script) as backend:  # type: ignore[arg-type]
        seen = await run(Plan(backend.url, 1, 0.1, stream=True, events=EVENTS, once=True))
    assert seen["errors"] == {why: 1}
