"""A failed call is a value for the policy; if it is the answer, the client is told in words that say no more than it should know."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.exchange.failure import retry_lines
from gateway.exchange.leg import REPLY_BYTES_MAX
from policies.plan import HOLD_ALL, Answer, Call, CallError, ErrorKind, Hold, Plan, ask, call
from tests.gateway.exchange.rig import CONNECT, DONE, JSON, SSE, WHOLE, Rig, event, failover, single

# Failures before commit.


def test_an_answer_whose_call_failed_since_it_was_judged() -> None:
    def plan() -> Plan:
        first = yield from call("small", Hold(tokens=1))
        yield from ask(Call("big", keep=(0,)))
        return Answer(first)

    rig = Rig(plan())
    rig.call().head(200, SSE)
    rig.call().body(event("one"))
    rig.call().fail(CallError("truncated", "h:1: x"))
    assert not rig.reply.started
    rig.call("big").fail(CONNECT)
    assert (rig.reply.status, rig.reply.error["message"]) == (502, "backend small broke off in the middle of its answer")
    assert rig.record.code == 502


def test_advice_on_when_to_come_back_is_rounded_up() -> None:
    assert retry_lines(1.5) == b"retry-after: 2\r\nretry-after-ms: 1500\r\n"
    assert retry_lines(0.0) == b"retry-after: 1\r\nretry-after-ms: 1\r\n"


@pytest.mark.parametrize(
    ("error", "status", "kind", "code", "message"),
    [
        (CONNECT, 502, "server_error", "backend_error", "backend small could not be reached"),
        (CallError("timeout_connect", "h:1: x"), 504, "server_error", "backend_timeout", "backend small could not be reached in time"),
        (CallError("closed", "h:1: x"), 502, "server_error", "backend_error", "backend small closed the connection before it answered"),
        (CallError("truncated", "h:1: x"), 502, "server_error", "backend_error", "backend small broke off in the middle of its answer"),
        (CallError("protocol", "h:1: x"), 502, "server_error", "backend_error", "backend small did not answer in HTTP"),
        (CallError("queue_full", "h:1: x"), 503, "server_error", "overloaded", "backend small has no room for another request"),
        (CallError("unready", "no replica is ready"), 503, "server_error", "backend_unavailable", "backend small: no replica is ready"),
        (CallError("breaker_open", "left alone"), 503, "server_error", "backend_unavailable", "backend small: left alone"),
        (CallError("queue_timeout", "waited"), 503, "server_error", "overloaded", "backend small: waited"),
        (CallError("timeout_first_token", "late"), 504, "server_error", "backend_timeout", "backend small: late"),
        (CallError("timeout_between_tokens", "late"), 504, "server_error", "backend_timeout", "backend small: late"),
        (CallError("timeout_total", "late"), 504, "server_error", "backend_timeout", "backend small: late"),
        (CallError("deadline", "over"), 504, "server_error", "deadline_exceeded", "backend small: over"),
    ],
)
def test_the_client_is_told_what_failed_and_the_record_why(error: CallError, status: int, kind: str, code: str, message: str) -> None:
    rig = Rig(single())
    rig.call().fail(error)
    assert rig.reply.status == status
    assert rig.reply.error == {"message": message, "type": kind, "param": None, "code": code}
    headers = rig.reply.headers
    assert (headers["x-headgate-backend"], headers["x-headgate-exchange-id"]) == ("small", "x-1")
    assert ("retry-after" in headers) == ("retry-after-ms" in headers) == (status == 503)
    timed_out = error.kind.startswith("timeout_") and error.kind != "timeout_connect"
    assert headers.get("x-should-retry") == ("false" if timed_out or error.kind == "deadline" else None)
    record = rig.record
    assert (record.code, record.error, record.committed) == (status, message, None)
    assert (record.calls[0].result, record.calls[0].message) == (error.kind, error.message)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("status", "headers", "expected", "kind", "code"),
    [
        (400, {}, 400, "invalid_request_error", None),
        (413, {}, 413, "invalid_request_error", None),
        (422, {}, 422, "invalid_request_error", None),
        (401, {}, 502, "server_error", "backend_error"),
        (403, {}, 502, "server_error", "backend_error"),
        (404, {}, 502, "server_error", "backend_error"),
        (429, {b"retry-after": b"7"}, 429, "rate_limit_error", "backend_rate_limited"),
        (500, {}, 502, "server_error", "backend_error"),
        (503, {}, 503, "server_error", "backend_unavailable"),
        (504, {}, 504, "server_error", "backend_timeout"),
        (302, {b"location": b"http://elsewhere"}, 502, "server_error", "backend_error"),
        (204, {}, 502, "server_error", "backend_error"),
    ],
)
def test_an_error_status_of_a_backend(
    stream: bool, status: int, headers: dict[bytes, bytes], expected: int, kind: str, code: str | None
) -> None:
    rig = Rig(single(), stream=stream)
    rig.call().reply(status, JSON | headers, b'{"error": {"message": "because sk-secret"}}')
    assert (rig.reply.status, rig.reply.error["type"], rig.reply.error["code"]) == (expected, kind, code)
    assert ("sk-secret" in rig.reply.error["message"]) == (status not in (401, 403))
    said = "because sk-secret"  # a client's own mistake is told in the backend's words alone
    assert rig.record.calls[0].message == (said if status in (400, 413, 422) else f"answered {status}: {said}")
    assert rig.record.calls[0].status == status
    if status == 429:
        assert (rig.reply.headers["retry-after"], rig.reply.headers["retry-after-ms"]) == ("7", "7000")


@pytest.mark.parametrize(
    ("chunks", "result"),
    [
        ((b"",), "truncated"),
        ((b"<html>hello</html>",), "truncated"),
        ((b"data: <html>\n\n",), "protocol"),
        ((b'data: {"error": {"message": "engine died"}}\n\n',), "error_event"),
        ((b'data: {"model":"","choices":[{"index":0,"delta":{"content":""},"finish_reason":null}]}\n\n',), "truncated"),
        ((b"data: [DONE]\n\n",), "protocol"),
    ],
)
def test_a_stream_that_is_none_before_its_first_content_is_a_failed_call(chunks: tuple[bytes, ...], result: str) -> None:
    rig = Rig(failover())
    rig.call().reply(200, SSE, *chunks)
    assert not rig.reply.started
    assert [error.kind for error in rig.call().faults] == [result]
    rig.call("big").reply(200, SSE, event("one"), event("", "stop"), DONE)
    assert rig.reply.body == event("one") + event("", "stop") + DONE
    assert [made.result for made in rig.record.calls] == [result, "ok"]


@pytest.mark.parametrize("body", [b"", b"null", b"<html>", b"{}", b'{"error": {"message": "no"}}', b'{"choices": []}', b'{"choices": [{'])
def test_a_whole_reply_that_is_none_is_a_failed_call(body: bytes) -> None:
    rig = Rig(single(), stream=False)
    rig.call().reply(200, JSON, body)
    assert (rig.reply.status, rig.reply.error["code"]) == (502, "backend_error")
    assert rig.reply.error["message"] == "backend small gave an answer that is not one of the API"
    assert [error.kind for error in rig.call().faults] == ["protocol"]
    assert rig.record.calls[0].result == "protocol"


def test_a_whole_reply_where_a_stream_was_asked_for_is_a_failed_call() -> None:
    rig = Rig(failover())
    rig.call().reply(200, JSON, WHOLE)
    assert not rig.reply.started
    rig.call("big").reply(200, {b"content-type": b"Text/Event-Stream"}, event("one"), event("", "stop"), DONE)
    assert (rig.reply.status, rig.reply.body) == (200, event("one") + event("", "stop") + DONE)
    assert rig.record.calls[0].message == "a whole reply came where a stream was asked for"


def test_a_reply_too_large_to_hold_is_a_failed_call() -> None:
    rig = Rig(single(HOLD_ALL))
    rig.call().head(200, SSE)
    words = event("word" * 64 * 1024)
    for _ in range(REPLY_BYTES_MAX // len(words)):
        rig.call().body(words)
    assert not rig.reply.started
    rig.call().body(words)
    assert rig.reply.status == 502
    assert rig.record.calls[0].result == "too_large"


# Failures after commit.


@pytest.mark.parametrize(
    ("break_off", "code", "message"),
    [
        (lambda call: call.fail(CallError("truncated", "h:1: x")), "backend_error", "backend small broke off in the middle of its answer"),
        (lambda call: call.end(), "backend_error", "backend small broke off in the middle of its answer"),
        (lambda call: call.body(b'data: {"error": {"message": "engine died"}}\n\n'), "backend_error", "backend small: engine died"),
        (lambda call: call.body(b"data: garbage\n\n"), "backend_error", "backend small gave an answer that is not one of the API"),
        (lambda call: call.fail(CallError("timeout_between_tokens", "silent")), "backend_timeout", "backend small: silent"),
        (lambda call: call.fail(CallError("deadline", "over")), "deadline_exceeded", "backend small: over"),
    ],
)
def test_a_failure_after_commit_ends_the_stream_with_an_error_and_done(break_off: Callable[[Any], None], code: str, message: str) -> None:
    rig = Rig(failover())
    rig.call().head(200, SSE)
    rig.call().body(event("one"))
    break_off(rig.call())
    assert rig.reply.over
    assert rig.reply.status == 200
    rest = rig.reply.body.removeprefix(event("one"))
    error = {"message": message, "type": "server_error", "param": None, "code": code}
    assert rest == b"data: " + json.dumps({"error": error}, separators=(",", ":")).encode() + b"\n\n" + DONE
    assert rig.upstreams["big"].calls == [], "models are never spliced"
    assert rig.record.code in (502, 504)
    assert rig.record.committed is not None
    assert rig.record.error == message


def test_what_came_with_the_error_before_it_is_still_passed_on() -> None:
    rig = Rig(single())
    rig.call().head(200, SSE)
    rig.call().body(event("one"))
    rig.call().body(event("two") + b'data: {"error": {"message": "died"}}\n\n' + event("never"))
    assert rig.reply.body.startswith(event("one") + event("two") + b'data: {"error":')
    assert b"never" not in rig.reply.body
    assert rig.record.calls[0].result == "error_event"


@pytest.mark.parametrize("hold", [Hold(), HOLD_ALL])
@pytest.mark.parametrize("kind", ["truncated", "timeout_between_tokens", "deadline"])
def test_a_backend_that_fails_after_its_whole_answer_has_given_it(hold: Hold, kind: ErrorKind) -> None:
    """Some servers close after `[DONE]` without HTTP's last chunk."""
    rig = Rig(failover(hold))
    rig.call().head(200, SSE)
    rig.call().body(event("one") + event("", "stop"))
    rig.call().fail(CallError(kind, "h:1: x"))
    assert rig.reply.body == event("one") + event("", "stop") + DONE
    assert (rig.record.code, rig.record.calls[0].result) == (200, "ok")
