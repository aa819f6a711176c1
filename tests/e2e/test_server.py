"""The `server` and `records` sections: who may ask at all, how long an exchange may take, how a gateway ends, what is kept."""

from __future__ import annotations

import asyncio
import signal
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.gateway import Gateway, chat, events, eventually, gateway
from tests.e2e.site import KEYS, raw
from tests.standin import Conversation, chunk, speaks, standin

DIGESTS = {"ACME_SHA256": sha256(KEYS["ACME"].encode()).hexdigest()}


def policy(url: str, big: str = "http://127.0.0.1:9", **sections: str) -> str:
    return f"""
version: 1
{chr(10).join(f"{name}: {value}" for name, value in sections.items())}
backends:
  - {{name: small, kind: openai, replicas: ["{url}"], model: tiny}}
  - {{name: big, kind: openai, replicas: ["{big}"], model: huge}}
routes:
  - {{name: main, matches: [{{models: [chat]}}], failover: [small, big]}}
"""


KEY = '[{name: acme, sha256: "${env:ACME_SHA256}"}]'


async def ask(running: Gateway, key: str | None = None, **more: Any) -> httpx.Response:
    async with running.client(key) as client:
        return await client.post("/v1/chat/completions", json=chat(**more))


# anonymous


@pytest.mark.key("server.anonymous")
async def test_anonymous_beside_keys() -> None:
    async with standin(speaks()) as backend:
        text = policy(backend.url, backend.url, server="{anonymous: true}", keys=KEY)
        async with gateway(text, environment=DIGESTS) as running:
            nobody, acme = await ask(running), await ask(running, KEYS["ACME"])
            assert (nobody.status_code, acme.status_code) == (200, 200)
            assert (await running.exchange(nobody.headers["x-headgate-exchange-id"]))["key"] == ""
            assert (await running.exchange(acme.headers["x-headgate-exchange-id"]))["key"] == "acme"
            assert (await ask(running, "hg-wrong")).status_code == 401, "a wrong key is not taken for none"


@pytest.mark.key("server.anonymous")
async def test_without_keys_a_gateway_on_every_address_must_be_meant() -> None:
    async with standin(speaks()) as backend:
        with pytest.raises(AssertionError, match=r"no keys, and no `server: \{anonymous: true\}`"):
            async with gateway(policy(backend.url, backend.url), "--host", "0.0.0.0", check=False):
                pass
        text = policy(backend.url, backend.url, server="{anonymous: true}")
        async with gateway(text, "--host", "0.0.0.0") as running:
            assert (await ask(running)).status_code == 200
        async with gateway(policy(backend.url, backend.url)) as running:
            assert (await ask(running, "any key at all")).status_code == 200, "this machine may ask, and SDKs always send a key"


# deadline


@pytest.mark.key("server.deadline")
async def test_the_deadline_of_an_exchange() -> None:
    async def silent(c: Conversation) -> None:
        await c.until_closed()

    async def endless(c: Conversation) -> None:
        await c.start_stream()
        while True:
            await c.event(chunk("word "))
            await asyncio.sleep(0.05)

    message = "backend small: the request's deadline has passed"
    async with (
        standin(silent) as small,
        standin(speaks()) as big,
        gateway(policy(small.url, big.url, server="{deadline: 1s}")) as running,
    ):
        for stream in (True, False):
            answer = await ask(running, stream=stream)
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
            assert answer.json()["error"]["message"] == message
            assert answer.headers["x-should-retry"] == "false"
            assert 1.0 <= (await running.exchange(answer.headers["x-headgate-exchange-id"]))["duration"] < 2.0
        assert big.asked == [], "there is no time for another"

        small.script = endless
        answer = await ask(running, stream=True)
        assert answer.status_code == 200
        *_, error, done = events(answer.content)
        assert (error["error"]["code"], error["error"]["message"], done) == ("deadline_exceeded", message, "[DONE]")


# drain


@pytest.mark.key("server.drain")
async def test_what_still_runs_when_the_drain_time_is_over_is_cut_off_with_a_word() -> None:
    async def endless(c: Conversation) -> None:
        if c.asked.json.get("stream"):
            await c.start_stream()
            await c.event(chunk("one "))
        await c.until_closed()

    async with standin(endless) as backend, gateway(policy(backend.url, backend.url, server="{drain: 1s}")) as running:
        async with raw(running) as streaming, raw(running) as waiting, raw(running) as idle:
            await streaming.ask(chat(stream=True))
            status, headers = await streaming.head()
            assert status == 200
            await waiting.ask(chat())
            await eventually(lambda: asyncio.sleep(0, len(backend.asked) == 2))
            running.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(idle.reader.read(), 5) == b"", "an idle connection is closed at once"
            rest = await asyncio.wait_for(streaming.reader.read(), 10)
            assert b'"code":"shutting_down"' in rest
            assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            status, headers, body = await waiting.answer()
            assert (status, body["error"]["code"], headers["connection"]) == (503, "shutting_down", "close")
            assert {"retry-after", "retry-after-ms"} <= set(headers)
            with pytest.raises(OSError):
                async with raw(running):
                    pass
        assert await asyncio.wait_for(running.process.wait(), 20) == 0
        assert [record.code for record in running.stored()] == [503, 503], "what was cut off is recorded too"


@pytest.mark.key("server.drain")
async def test_what_ends_within_the_drain_time_ends_well() -> None:
    go_on = asyncio.Event()

    async def slow(c: Conversation) -> None:
        await c.start_stream()
        await c.event(chunk("one "))
        await go_on.wait()
        await c.event(chunk("two", "stop"))
        await c.end_stream()

    async with standin(slow) as backend, gateway(policy(backend.url, backend.url, server="{drain: 30s}")) as running:
        async with raw(running) as client:
            await client.ask(chat(stream=True))
            await client.head()
            running.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.5)
            go_on.set()
            rest = await asyncio.wait_for(client.reader.read(), 10)
            assert b"two" in rest
            assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert await asyncio.wait_for(running.process.wait(), 10) == 0


# records


@pytest.mark.key("records.keep_for", "records.keep_max")
async def test_records_go_by_age_and_by_size(tmp_path: Path) -> None:
    """A gateway deletes when it starts, and then every half a minute."""
    state = ("--state-dir", str(tmp_path / "state"))
    async with standin(speaks()) as backend:
        urls = (backend.url, backend.url)
        async with gateway(policy(*urls, records="{content: {store: true}}"), *state) as running:
            ids = []
            for number in range(12):
                answer = await ask(running, content=str(number) * 200_000)
                ids.append(answer.headers["x-headgate-exchange-id"])
            for each in ids:
                await running.exchange(each)
        async with gateway(policy(*urls, records="{keep_max: 1MiB}"), *state) as running:
            await gone(running, ids[0])
            assert (await running.exchange(ids[-1]))["content"] is not None, "the oldest go"
        async with gateway(policy(*urls, records="{keep_for: 100ms}"), *state) as running:
            await gone(running, ids[-1])


async def gone(running: Gateway, exchange_id: str) -> None:
    async def look() -> bool:
        try:
            await running.ask_admin(f"/exchanges/{exchange_id}")
        except httpx.HTTPStatusError as error:
            return error.response.status_code == 404
        return False

    await eventually(look)


# Health


async def test_health_needs_no_key() -> None:
    async with (
        standin(speaks()) as backend,
        gateway(policy(backend.url, backend.url, keys=KEY), environment=DIGESTS) as running,
        running.client() as client,
    ):
        for path in ("/health/live", "/health/ready"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        assert (await client.get("/health/else")).status_code == 404
