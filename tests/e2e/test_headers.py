"""Headers both ways, and what stands of a request in its record: who asked, which labels it had, what it said and cost."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.e2e.gateway import chat, gateway
from tests.e2e.site import KEYS, Site, site
from tests.standin import Conversation, Standin, chunk, completion, fails, speaks, standin

POLICY = """
version: 1
backends:
  - name: small
    kind: openai
    replicas: ["SMALL"]
    model: tiny
    api_key: "${env:ROOT_SHA256}"
    price: {input: 3, output: 5, currency: CHF, per_tokens: 100}
    retries: {attempts: 1}
    breaker: {failures: 1000}
  - {name: big, kind: openai, replicas: ["BIG"], model: huge}
segments:
  - {name: tenant, from: "key:tenant", values: [acme], else: other}
  - {name: prompt_length, from: prompt_chars, edges: [20]}
  - {name: tier, from: "header:x-tier", values: [gold]}
records: {content: {store: true, redact: [email, "regex:ACME-[0-9]+"]}}
routes:
  - name: main
    matches: [{models: [chat]}]
    failover: [small, big]
    segments: [tenant, prompt_length, tier]
    unit: ["header:x-user-id", "body:user", key]
  - {name: own, matches: [{keys: {tenant: [acme]}}], backend: big}
keys:
  - {name: acme, sha256: "${env:ACME_SHA256}", labels: {tenant: acme}, debug: true}
  - {name: root, sha256: "${env:ROOT_SHA256}"}
"""
BACKEND_KEY = sha256(KEYS["ROOT"].encode()).hexdigest()
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Site]:
    async with site(POLICY) as found:
        yield found


@pytest.fixture(autouse=True)
def fresh(running: Site) -> None:
    running.play()


async def ask(running: Site, body: Any = None, *, key: Any = "ACME", **headers: str) -> httpx.Response:
    async with running.client(key) as client:
        return await client.post("/v1/chat/completions", json=body or chat(), headers=headers)


# What goes to the backend.


@pytest.mark.key("backends[].api_key")
async def test_only_these_headers_go_upstream(running: Site) -> None:
    sent = {
        "cookie": "session=1",
        "x-api-key": "hg-another",
        "x-forwarded-for": "10.0.0.1",
        "x-user-id": "u-1",
        "user-agent": "someone",
        "openai-organization": "org-1",
        "x-headgate-debug": "true",
        "x-headgate-backend": "big",
        "proxy-authorization": "Basic eA==",
    }
    await ask(running, **sent)
    (asked,) = running.small.asked
    assert set(asked.headers) == {"host", "authorization", "content-type", "content-length", "x-request-id", "traceparent"}
    assert asked.headers["authorization"] == f"Bearer {BACKEND_KEY}", "the backend's key, never the client's"
    assert asked.headers["host"] == f"127.0.0.1:{running.small.port}"
    assert KEYS["ACME"] not in str(asked.headers) + asked.body.decode()


@pytest.mark.key("backends[].model")
async def test_the_body_goes_as_it_came_but_for_the_model(running: Site) -> None:
    body = b'{ "model" : "chat",\n "messages": [{"role":"user","content":"\\u00e9\xc3\xa9"}], "x_unknown": 1.0e2 , "temperature":0}'
    async with running.client("ACME") as client:
        answer = await client.post("/v1/chat/completions", content=body)
    (asked,) = running.small.asked
    assert asked.body == body.replace(b'"chat"', b'"tiny"')
    assert answer.json()["model"] == "tiny", "what the backend wrote"
    assert answer.headers["x-headgate-backend"] == "small"


async def test_a_path_with_a_query_is_the_same_endpoint(running: Site) -> None:
    async with running.client("ACME") as client:
        assert (await client.post("/v1/chat/completions?api-version=1", json=chat())).status_code == 200
    assert running.small.asked[0].path == "/v1/chat/completions"


# What comes back.


@pytest.mark.parametrize("stream", [True, False])
async def test_only_these_headers_come_back(running: Site, stream: bool) -> None:
    async def script(c: Conversation) -> None:
        more = "server: uvicorn\r\nset-cookie: a=b\r\nx-internal: 1\r\nopenai-organization: org-1\r\nx-ratelimit-limit-requests: 9\r\n"
        if not stream:
            await c.json(completion(), headers=more)
            return
        await c.send(f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{more}transfer-encoding: chunked\r\n\r\n".encode())
        await c.event(chunk("hi", "stop"))
        await c.end_stream()

    running.play(small=script)
    answer = await ask(running, chat(stream=stream))
    framing = {"transfer-encoding", "cache-control"} if stream else {"content-length"}
    ours = {"x-request-id", "x-headgate-exchange-id", "x-headgate-route", "x-headgate-backend", "x-headgate-reason"}
    assert set(answer.headers) == {"date", "content-type", "x-headgate-policy-version"} | ours | framing
    assert answer.headers["x-headgate-route"] == "main"
    assert answer.headers["x-headgate-backend"] == "small"
    assert answer.headers["x-headgate-reason"] == "primary"
    assert answer.headers["x-headgate-policy-version"] == (await running.gateway.ask_admin("/status"))["version"]


@pytest.mark.key("keys[].debug")
async def test_debug_headers_for_a_key_that_may_ask_for_them(running: Site) -> None:
    running.play(small=fails(500))
    may = await ask(running, **{"x-headgate-debug": "true"})
    assert may.headers["x-headgate-calls"] == "2"
    assert 0 < float(may.headers["x-headgate-overhead-ms"]) < 1000
    assert "x-headgate-calls" not in (await ask(running)).headers, "it did not ask"
    assert "x-headgate-calls" not in (await ask(running, key="ROOT", **{"x-headgate-debug": "true"})).headers, "it may not"


async def test_the_request_id_is_kept_if_it_is_sane(running: Site) -> None:
    kept = await ask(running, **{"x-request-id": "req_1.2-3"})
    assert kept.headers["x-request-id"] == "req_1.2-3"
    assert running.small.asked[0].headers["x-request-id"] == "req_1.2-3"
    assert (await running.record(kept))["request_id"] == "req_1.2-3"
    for insane in ("two words", "x" * 129, '"', "a,b"):
        made = await ask(running, **{"x-request-id": insane})
        assert re.fullmatch("[0-9a-f]{24}", made.headers["x-request-id"])
        assert made.headers["x-request-id"] == made.headers["x-headgate-exchange-id"]


async def test_the_trace_goes_on_with_a_span_of_its_own(running: Site) -> None:
    running.play(small=fails(500))
    answer = await ask(running, traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="vendor=1")
    spans = []
    for backend in (running.small, running.big):
        (asked,) = backend.asked
        version, trace, span, flags = asked.headers["traceparent"].split("-")
        assert (version, trace, flags, asked.headers["tracestate"]) == ("00", TRACE, "01", "vendor=1")
        spans.append(span)
    record = await running.record(answer)
    assert (record["trace_id"], record["parent_span_id"], record["trace_sampled"]) == (TRACE, SPAN, True)
    assert [call["span_id"] for call in record["calls"]] == spans
    assert len({SPAN, record["span_id"], *spans}) == 4


async def test_a_trace_begins_here_where_the_client_has_none(running: Site) -> None:
    for header in ({}, {"traceparent": "garbage"}, {"traceparent": f"00-{'0' * 32}-{SPAN}-01"}):
        running.play()
        answer = await ask(running, **header)
        record = await running.record(answer)
        assert record["parent_span_id"] == ""
        assert running.small.asked[0].headers["traceparent"].split("-")[1] == record["trace_id"]


# What the record says.


@pytest.mark.key("keys[].name", "keys[].labels", "routes[].segments", "segments[].values", "segments[].else", "segments[].edges")
async def test_key_and_segments(running: Site) -> None:
    acme = await running.record(await ask(running, chat(content="a question of more than twenty characters"), **{"x-tier": "gold"}))
    assert (acme["key"], acme["segments"]) == ("acme", {"tenant": "acme", "prompt_length": ">=20", "tier": "gold"})
    root = await running.record(await ask(running, chat(content="short"), key="ROOT", **{"x-tier": "platinum"}))
    assert (root["key"], root["segments"]) == ("root", {"tenant": "other", "prompt_length": "<20", "tier": "other"})
    await running.counted('headgate_segment_requests_total{route="main",segment="tenant",value="acme"}', at_least=1)


@pytest.mark.key("routes[].unit")
async def test_the_unit_is_the_first_that_is_present(running: Site) -> None:
    for body, headers, unit in (
        (chat(user="from-the-body"), {"x-user-id": "from-the-header"}, "from-the-header"),
        (chat(user="from-the-body"), {}, "from-the-body"),
        (chat(), {}, "acme"),
    ):
        assert (await running.record(await ask(running, body, **headers)))["unit"] == unit


@pytest.mark.key("backends[].price.input", "backends[].price.output", "backends[].price.currency", "backends[].price.per_tokens")
async def test_what_a_call_cost(running: Site) -> None:
    name = 'headgate_cost_total{backend="small",currency="CHF",route="main"}'
    before = (await running.gateway.scrape()).get(name, 0)
    for stream in (True, False):
        record = await running.record(await ask(running, chat(stream=stream)))
        (call,) = record["calls"]
        assert (call["input_tokens"], call["output_tokens"], call["currency"]) == (7, 3, "CHF")
        assert call["cost"] == pytest.approx(7 * 0.03 + 3 * 0.05)
    await running.counted(name, at_least=before + 0.71)
    free = (await running.record(await ask(running, chat("anything"))))["calls"][0]
    assert (free["backend"], free["input_tokens"], free["cost"], free["currency"]) == ("big", 7, None, None)


@pytest.mark.key("records.content.store", "records.content.redact")
async def test_content_is_stored_without_what_is_redacted(running: Site) -> None:
    secret = "write to eve@example.org about ACME-123"
    running.play(small=speaks("dear eve@example.org ACME-99 it is"))
    for stream in (True, False):
        record = await running.record(await ask(running, chat(content=secret, stream=stream)))
        stored = json.dumps(record["content"])
        assert "eve@" not in stored
        assert "ACME-" not in stored
        assert "write to" in record["content"]["request"]
        assert "dear" in record["content"]["response"]
        assert record["content"]["truncated"] is False
    (asked, _) = running.small.asked
    assert asked.json["messages"][0]["content"] == secret, "the backend gets what was asked"


async def test_a_listing_shows_no_content(running: Site) -> None:
    await running.record(await ask(running, chat(content="private")))
    listed = await running.gateway.ask_admin("/exchanges?limit=5")
    assert listed["exchanges"]
    assert all(record["content"] is None for record in listed["exchanges"])


# Policies of their own.


async def stored_of(backend: Standin, records: str, requests: int) -> int:
    """How many of so many requests left their content."""
    text = f"""
version: 1
records: {records}
backends: [{{name: small, kind: openai, replicas: ["{backend.url}"], model: tiny}}]
routes: [{{name: main, matches: [{{models: [chat]}}], backend: small}}]
"""
    async with gateway(text) as running, running.client() as client:
        answers = [await client.post("/v1/chat/completions", json=chat()) for _ in range(requests)]
        records_of = [await running.exchange(answer.headers["x-headgate-exchange-id"]) for answer in answers]
        return sum(record["content"] is not None for record in records_of)


@pytest.mark.key("records.content.store", "records.content.sample_percent")
async def test_content_of_a_sample_or_of_none() -> None:
    async with standin(speaks()) as backend:
        assert await stored_of(backend, "{}", 3) == 0, "not unless it is asked for"
        assert 8 < await stored_of(backend, "{content: {store: true, sample_percent: 50}}", 40) < 32
