"""Everything that a backend can do wrong: alone, the client is told; in a failover the next one serves, and nothing of it is seen."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.e2e.gateway import chat, events, said
from tests.e2e.site import Site, raw, site
from tests.standin import Conversation, Script, chunk, completion, fails, speaks

POLICY = """
version: 1
backends:
  - name: small
    kind: openai
    replicas: ["SMALL"]
    model: tiny
    timeouts: {connect: 300ms, first_token: 1s, between_tokens: 1s, total: 3s}
    retries: {attempts: 1}
    breaker: {failures: 1000}
    readiness: {every: 1h}
  - {name: big, kind: openai, replicas: ["BIG"], model: huge}
routes:
  - {name: alone, matches: [{models: [alone]}], backend: small}
  - {name: both, matches: [{models: [both]}], failover: [small, big]}
  - {name: patient, matches: [{models: [patient]}], backend: small, keep_alive_after: 300ms}
"""
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Site]:
    async with site(POLICY) as found:
        yield found


@pytest.fixture(autouse=True)
def fresh(running: Site) -> None:
    seen.clear()
    running.play()


async def ask(running: Site, model: str, *, stream: bool = True) -> httpx.Response:
    async with running.client() as client:
        return await client.post("/v1/chat/completions", json=chat(model, stream=stream))


# Backends that fail before their first content, streaming.


async def hears_nothing(c: Conversation) -> None:
    await c.until_closed()


async def says_only_its_role(c: Conversation) -> None:
    await c.start_stream()
    await c.event(chunk("", role=True))
    await c.until_closed()


async def hangs_up(c: Conversation) -> None:
    c.reset()


async def hangs_up_in_the_head(c: Conversation) -> None:
    await c.send(b"HTTP/1.1 200 OK\r\ncontent-ty")
    c.reset()


async def half_a_chunk(c: Conversation) -> None:
    await c.start_stream()
    await c.send(b"40\r\ndata: {")
    c.reset()


async def garbage_for_http(c: Conversation) -> None:
    await c.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


async def garbage_for_sse(c: Conversation) -> None:
    await c.start_stream()
    await c.chunk(b"data: <html>\n\n")
    await c.end_stream()


async def an_html_page(c: Conversation) -> None:
    page = b"<html><h1>Welcome to nginx</h1></html>"
    await c.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n" % len(page) + page)


async def an_error_event(c: Conversation) -> None:
    await c.start_stream()
    await c.event({"error": {"message": "the engine died", "type": "x", "code": 500}})
    await c.end_stream()


async def an_empty_stream(c: Conversation) -> None:
    await c.start_stream()
    await c.end_stream(done=False)


async def done_alone(c: Conversation) -> None:
    await c.start_stream()
    await c.end_stream()


async def an_empty_200(c: Conversation) -> None:
    await c.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n")


async def no_stream(c: Conversation) -> None:
    await c.json(completion("whole"))


async def ends_in_silence(c: Conversation) -> None:
    """What Ollama sends when its runner dies: one empty chunk, then the end."""
    await c.start_stream()
    await c.event(chunk("", model=""))
    await c.end_stream(done=False)


BROKEN = "backend small broke off in the middle of its answer"
NO_API = "backend small gave an answer that is not one of the API"
FAILURES: list[tuple[Script, int, str | None, str, str]] = [
    (hears_nothing, 504, "backend_timeout", "backend small: no first token within 1 s", "timeout_first_token"),
    (says_only_its_role, 504, "backend_timeout", "backend small: no first token within 1 s", "timeout_first_token"),
    (hangs_up, 502, "backend_error", "backend small closed the connection before it answered", "closed"),
    (hangs_up_in_the_head, 502, "backend_error", BROKEN, "truncated"),
    (half_a_chunk, 502, "backend_error", BROKEN, "truncated"),
    (garbage_for_http, 502, "backend_error", "backend small did not answer in HTTP", "protocol"),
    (garbage_for_sse, 502, "backend_error", NO_API, "protocol"),
    (an_html_page, 502, "backend_error", NO_API, "protocol"),
    (an_error_event, 502, "backend_error", "backend small: the engine died", "error_event"),
    (an_empty_stream, 502, "backend_error", BROKEN, "truncated"),
    (done_alone, 502, "backend_error", NO_API, "protocol"),
    (an_empty_200, 502, "backend_error", NO_API, "protocol"),
    (no_stream, 502, "backend_error", NO_API, "protocol"),
    (ends_in_silence, 502, "backend_error", BROKEN, "truncated"),
    (fails(500), 502, "backend_error", "backend small: answered 500: boom", "status"),
    (fails(429, headers="retry-after: 7\r\n"), 429, "backend_rate_limited", "backend small: answered 429: boom", "status"),
    (fails(401), 502, "backend_error", "backend small refused the gateway's credentials (401)", "status"),
    (fails(404), 502, "backend_error", "backend small: answered 404: boom", "status"),
    (fails(503), 503, "backend_unavailable", "backend small: answered 503: boom", "status"),
]
NAMES = [(case[0].__name__ if case[0].__name__ != "script" else case[3].rpartition(" ")[0]) for case in FAILURES]


@pytest.mark.parametrize(("script", "status", "code", "message", "result"), FAILURES, ids=NAMES)
async def test_alone_the_client_is_told(running: Site, script: Script, status: int, code: str, message: str, result: str) -> None:
    running.play(small=script)
    answer = await ask(running, "alone")
    kind = "rate_limit_error" if status == 429 else "server_error"
    assert answer.status_code == status
    assert answer.json() == {"error": {"message": message, "type": kind, "param": None, "code": code}}
    assert str(running.small.port) not in answer.text
    assert answer.headers["x-headgate-backend"] == "small"
    assert answer.headers.get("x-should-retry") == ("false" if result.startswith("timeout") else None)
    if status == 429:
        assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("7", "7000")
    record = await running.record(answer)
    assert (record["code"], record["error"], record["committed"]) == (status, message, None)
    assert [call["result"] for call in record["calls"]] == [result]


@pytest.mark.key("routes[].failover")
@pytest.mark.parametrize(("script", "status", "code", "message", "result"), FAILURES, ids=NAMES)
async def test_in_a_failover_the_next_one_serves(running: Site, script: Script, status: int, code: str, message: str, result: str) -> None:
    running.play(small=script)
    answer = await ask(running, "both")
    assert answer.status_code == 200
    assert said(answer.content).strip() == "hello from big"
    assert events(answer.content)[-1] == "[DONE]"
    assert b"the engine died" not in answer.content
    assert (answer.headers["x-headgate-backend"], answer.headers["x-headgate-reason"]) == ("big", "failover")
    record = await running.record(answer)
    assert [(call["backend"], call["result"]) for call in record["calls"]] == [("small", result), ("big", "ok")]
    assert (record["backend"], record["reason"], record["code"], record["error"]) == ("big", "failover", 200, "")


@pytest.mark.parametrize(
    "script",
    [hangs_up, hangs_up_in_the_head, garbage_for_http, an_html_page, an_empty_200, fails(500), fails(401), fails(503)],
    ids=lambda script: script.__name__,
)
async def test_the_same_for_an_answer_in_one_piece(running: Site, script: Script) -> None:
    running.play(small=script)
    alone = await ask(running, "alone", stream=False)
    assert alone.status_code in (502, 503)
    both = await ask(running, "both", stream=False)
    assert both.json()["choices"][0]["message"]["content"] == "hello from big"
    assert both.headers["x-headgate-reason"] == "failover"


@pytest.mark.key("backends[].timeouts.total")
async def test_an_answer_in_one_piece_that_does_not_come(running: Site) -> None:
    running.play(small=hears_nothing)
    answer = await ask(running, "alone", stream=False)
    assert (answer.status_code, answer.json()["error"]["message"]) == (504, "backend small: not done within 3 s")
    assert answer.headers["x-should-retry"] == "false"


async def test_an_answer_in_one_piece_that_breaks_off(running: Site) -> None:
    async def script(c: Conversation) -> None:
        await c.send(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"choices": [')
        c.reset()

    running.play(small=script)
    answer = await ask(running, "alone", stream=False)
    assert (answer.status_code, answer.json()["error"]["message"]) == (502, BROKEN)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_request_that_the_backend_refuses_is_the_clients_and_no_other_is_asked(running: Site, status: int) -> None:
    running.play(small=fails(status, "the context is too long", param="messages", code="context_length_exceeded"))
    answer = await ask(running, "both")
    error = {
        "message": "the context is too long",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
    assert (answer.status_code, answer.json()) == (status, {"error": error})
    assert answer.headers["x-headgate-backend"] == "small"
    assert running.big.asked == []


async def test_a_backend_that_lacks_the_endpoint(running: Site) -> None:
    running.play(small=fails(404, "Not Found"))
    async with running.client() as client:
        answer = await client.post("/v1/embeddings", json={"model": "alone", "input": "hi"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "endpoint_not_offered")


# Backends that cannot be reached.


async def test_a_backend_that_refuses_connections_or_does_not_take_them(running: Site) -> None:
    small = running.small
    port = small.port
    await small.stop()
    try:
        alone = await ask(running, "alone")
        assert (alone.status_code, alone.json()["error"]["message"]) == (502, "backend small could not be reached")
        record = await running.record(alone)
        assert record["calls"][0]["result"] == "connect"
        assert str(port) in record["calls"][0]["message"]
        assert (await ask(running, "both")).headers["x-headgate-reason"] == "failover"

        with full_listener(port):
            alone = await ask(running, "alone")
            assert (alone.status_code, alone.json()["error"]["message"]) == (504, "backend small could not be reached in time")
            assert "x-should-retry" not in alone.headers
            assert (await running.record(alone))["calls"][0]["result"] == "timeout_connect"
            assert (await ask(running, "both")).headers["x-headgate-reason"] == "failover"
    finally:
        await small.start()
    assert (await ask(running, "alone")).status_code == 200


class full_listener:  # noqa: N801  (reads as a function)
    """A socket that listens and takes nobody: its backlog is full, so the kernel lets every further SYN fall."""

    def __init__(self, port: int) -> None:
        self._sockets = [socket.socket()]
        self._sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port = port

    def __enter__(self) -> None:
        listener = self._sockets[0]
        listener.bind(("127.0.0.1", self._port))
        listener.listen(0)
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", self._port))
            self._sockets.append(client)

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()


# Backends that fail after their first content: an error in the stream, then [DONE]; never silence and never another model.


seen = asyncio.Event()
"""The client has had the first content."""


async def begins(c: Conversation) -> None:
    await c.start_stream()
    await c.event(chunk("one "))
    await asyncio.wait_for(seen.wait(), 5)


async def dies(c: Conversation) -> None:
    await begins(c)
    c.reset()


async def dies_in_a_chunk(c: Conversation) -> None:
    await begins(c)
    await c.send(b'80\r\ndata: {"choices": [{"index": 0, "delta": {"content": "tw')
    c.reset()


async def ends_unfinished(c: Conversation) -> None:
    await begins(c)
    await c.end_stream(done=False)


async def says_done_unfinished(c: Conversation) -> None:
    await begins(c)
    await c.end_stream()


async def an_error_in_the_stream(c: Conversation) -> None:
    await begins(c)
    await c.event({"error": {"message": "EngineCore died"}})
    await c.end_stream()


async def garbage_in_the_stream(c: Conversation) -> None:
    await begins(c)
    await c.chunk(b"data: {not json\n\n")
    await c.until_closed()


async def breaks_the_framing(c: Conversation) -> None:
    await begins(c)
    await c.send(b"this is no chunk\r\n")
    await c.until_closed()


async def falls_silent(c: Conversation) -> None:
    await c.start_stream()
    await c.event(chunk("one "))
    await c.until_closed()


async def never_ends(c: Conversation) -> None:
    await c.start_stream()
    while True:
        await c.event(chunk("one "))
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("model", ["alone", "both"])
@pytest.mark.parametrize(
    ("script", "code", "message", "result"),
    [
        (dies, "backend_error", BROKEN, "truncated"),
        (dies_in_a_chunk, "backend_error", BROKEN, "truncated"),
        (ends_unfinished, "backend_error", BROKEN, "truncated"),
        (says_done_unfinished, "backend_error", NO_API, "protocol"),
        (an_error_in_the_stream, "backend_error", "backend small: EngineCore died", "error_event"),
        (garbage_in_the_stream, "backend_error", NO_API, "protocol"),
        (breaks_the_framing, "backend_error", NO_API, "protocol"),
        (falls_silent, "backend_timeout", "backend small: silent for 1 s in the middle of its reply", "timeout_between_tokens"),
        (never_ends, "backend_timeout", "backend small: not done within 3 s", "timeout_total"),
    ],
)
async def test_a_failure_after_the_first_content(running: Site, script: Script, code: str, message: str, result: str, model: str) -> None:
    running.play(small=script)
    async with running.client() as client, client.stream("POST", "/v1/chat/completions", json=chat(model, stream=True)) as answer:
        assert answer.status_code == 200
        received = b""
        async for data in answer.aiter_bytes():
            received += data
            seen.set()
    *content, error, done = events(received)
    assert {event["choices"][0]["delta"]["content"] for event in content} == {"one "}
    assert error == {"error": {"message": message, "type": "server_error", "param": None, "code": code}}
    assert done == "[DONE]"
    assert running.big.asked == []
    record = await running.record(answer)
    assert (record["code"], record["backend"], record["error"]) == (504 if code == "backend_timeout" else 502, "small", message)
    assert record["committed"] is not None
    assert [call["result"] for call in record["calls"]] == [result]


# Streams that are right, however they come.


async def test_a_stream_in_every_shape_is_passed_on_byte_for_byte(running: Site) -> None:
    """CRLF, comments, an event in many reads and many in one, a read that ends within a character."""
    text = "naïve 語 🙂 "
    plain = [json.dumps(chunk(part), ensure_ascii=False).encode() for part in (text, "two", "three")]
    finish = json.dumps(chunk("", "stop")).encode()
    stream = b": a comment\r\n\r\n" + b"".join(b"data: " + each + b"\r\n\r\n" for each in plain)
    stream += b"event: message\ndata: " + finish + b"\nid: 7\n\n" + b"data: [DONE]\n\n"

    async def script(c: Conversation) -> None:
        await c.start_stream()
        sizes = (1, 2, 3, 5, 7) if len(running.small.asked) % 2 else (len(stream),)
        at = 0
        while at < len(stream):
            size = sizes[at % len(sizes)]
            await c.chunk(stream[at : at + size])
            at += size
            await asyncio.sleep(0)
        await c.end_stream(done=False)

    running.play(small=script)
    for _ in range(2):
        answer = await ask(running, "alone")
        assert answer.content == stream
        assert said(answer.content) == text + "two" + "three"
        assert (await running.record(answer))["code"] == 200


async def test_a_stream_without_done_gets_one(running: Site) -> None:
    async def script(c: Conversation) -> None:
        await c.start_stream()
        await c.event(chunk("one"))
        await c.event(chunk("", "stop"))
        await c.end_stream(done=False)

    running.play(small=script)
    answer = await ask(running, "alone")
    assert events(answer.content)[-1] == "[DONE]"
    assert (await running.record(answer))["code"] == 200


async def test_a_stream_that_ends_with_its_connection(running: Site) -> None:
    """HTTP/1.0's way: no length, no chunks."""

    async def script(c: Conversation) -> None:
        await c.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        await c.send(b"data: " + json.dumps(chunk("one", "stop")).encode() + b"\n\ndata: [DONE]\n\n")
        c.keep = False

    running.play(small=script)
    answer = await ask(running, "alone")
    assert (said(answer.content), events(answer.content)[-1]) == ("one", "[DONE]")


async def test_a_backend_that_closes_after_done_without_https_last_chunk(running: Site) -> None:
    async def script(c: Conversation) -> None:
        await c.start_stream()
        await c.event(chunk("one", "stop"))
        await c.chunk(b"data: [DONE]\n\n")
        c.writer.close()
        c.keep = False

    running.play(small=script)
    answer = await ask(running, "alone")
    assert [each if each == "[DONE]" else each["choices"][0]["delta"]["content"] for each in events(answer.content)] == ["one", "[DONE]"]
    assert (await running.record(answer))["code"] == 200


async def test_usage_is_the_clients_only_if_it_asked(running: Site) -> None:
    async with running.client() as client:
        asked = await client.post("/v1/chat/completions", json=chat("alone", stream=True, stream_options={"include_usage": True}))
        not_asked = await client.post("/v1/chat/completions", json=chat("alone", stream=True, stream_options={"include_usage": False}))
    assert [event["usage"]["total_tokens"] for event in events(asked.content) if event != "[DONE]" and event.get("usage")] == [10]
    assert b"usage" not in not_asked.content
    assert [each.json["stream_options"]["include_usage"] for each in running.small.asked] == [True, True]
    for answer in (asked, not_asked):
        assert (await running.record(answer))["calls"][0]["input_tokens"] == 7


# Comments.


@pytest.mark.key("routes[].keep_alive_after")
async def test_comments_keep_a_waiting_client_and_late_errors_are_in_the_stream(running: Site) -> None:
    go = asyncio.Event()

    async def script(c: Conversation) -> None:
        await go.wait()
        await speaks("at last")(c)

    running.play(small=script)
    async with raw(running.gateway) as client:
        await client.ask(chat("patient", stream=True))
        status, headers = await client.head()
        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert "x-headgate-backend" not in headers, "nobody knows yet"
        for _ in range(2):
            await asyncio.wait_for(client.reader.readuntil(b": keep-alive\n\n"), 5)
        go.set()
        rest = await asyncio.wait_for(client.reader.readuntil(b"0\r\n\r\n"), 5)
        assert b"at " in rest
        assert b"[DONE]" in rest
        record = await running.gateway.exchange(headers["x-headgate-exchange-id"])
        assert (record["code"], record["backend"]) == (200, "small")

    async def late(c: Conversation) -> None:
        await asyncio.sleep(0.5)
        await fails(429)(c)

    running.play(small=late)
    answer = await ask(running, "patient")
    assert answer.status_code == 200
    assert answer.content.startswith(b": keep-alive\n\n")
    (error, done) = events(answer.content)
    assert (error["error"]["code"], done) == ("backend_rate_limited", "[DONE]")
    assert (await running.record(answer))["code"] == 429


async def test_no_comment_where_the_route_does_not_want_them(running: Site) -> None:
    async def script(c: Conversation) -> None:
        await asyncio.sleep(0.5)
        await speaks("quick")(c)

    running.play(small=script)
    assert not (await ask(running, "alone")).content.startswith(b":")
