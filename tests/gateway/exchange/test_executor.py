"""Plans driven to their end: answers, failures, clients that leave, policies that break, and one record of each."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator
from typing import Any

import pytest

from policies.plan import CALLS_MAX, HOLD_ALL, Answer, Call, CallError, Hold, Outcome, Plan, Refuse, Verdict, call
from tests.gateway.exchange.rig import DONE, JSON, SSE, TRACE, USAGE, WHOLE, Rig, event, failover, judged, single

CONNECT = CallError("connect", "10.0.0.7:8000: [Errno 111] Connection refused")


def finish(rig: Rig, name: str = "small") -> None:
    rig.call(name).body(event("", "stop") + DONE)
    rig.call(name).end()


# What is asked of a backend.


def test_the_call_carries_the_body_with_the_backends_model_and_the_childs_trace() -> None:
    rig = Rig(single())
    ask = rig.call().ask
    body = json.loads(rig.call().request_body)
    assert body == {**json.loads(rig.raw), "model": "small-model", "stream_options": {"include_usage": True}}
    assert ask.path == b"/v1/chat/completions"
    assert ask.stream
    assert ask.deadline == rig.loop.clock + 600
    span = rig.exchange.legs[0].span_id
    assert ask.headers == f"x-request-id: r-1\r\ntraceparent: 00-{TRACE.trace_id}-{span}-01\r\n".encode()
    assert span not in (TRACE.span_id, TRACE.parent_span_id)


def test_two_calls_have_two_spans_and_share_one_rendering_for_one_model() -> None:
    rig = Rig(failover())
    rig.call().fail(CONNECT)
    first, second = rig.exchange.legs
    assert first.span_id != second.span_id
    assert json.loads(rig.call("big").request_body)["model"] == "big-model"


@pytest.mark.parametrize("field", [{"lora_path": "/etc"}, {"priority": 1}])
def test_a_field_that_a_backend_must_not_get_is_the_requests_fault(field: dict[str, Any]) -> None:
    rig = Rig(failover(), **field)
    (name,) = field
    # `failover` of the tests asks on; the shipped one does not. Neither backend is asked anything.
    assert rig.calls == []
    assert (rig.reply.status, rig.reply.error["type"]) == (400, "invalid_request_error")
    assert rig.reply.error["message"] == f"the field {name!r} is not allowed for backend big"
    assert [made.result for made in rig.record.calls] == ["status", "status"]
    assert rig.record.calls[0].attempts == ()


# Answers.


def test_an_answer_that_streams() -> None:
    rig = Rig(single())
    rig.pass_time(0.25)
    rig.call().head(200, SSE | {b"server": b"uvicorn", b"set-cookie": b"a=b", b"x-internal": b"1"})
    rig.pass_time(0.25)
    rig.call().body(event("one"))
    rig.pass_time(1)
    rig.call().body(event("two"))
    finish(rig)
    assert rig.reply.over
    assert rig.reply.headers == {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-request-id": "r-1",
        "x-headgate-exchange-id": "x-1",
        "x-headgate-route": "main",
        "x-headgate-policy-version": "v-1",
        "x-headgate-backend": "small",
        "x-headgate-reason": "primary",
    }
    record = rig.record
    assert (record.exchange_id, record.request_id, record.route, record.key, record.unit) == ("x-1", "r-1", "main", "acme", "u-1")
    assert (record.trace_id, record.span_id, record.parent_span_id) == (TRACE.trace_id, TRACE.span_id, TRACE.parent_span_id)
    assert (record.model, record.stream, record.endpoint, record.segments) == ("chat", True, "chat", (("tenant", "acme"),))
    assert (record.reason, record.backend, record.code, record.error) == ("primary", "small", 200, "")
    assert (record.bytes_in, record.bytes_out) == (len(rig.raw), len(rig.reply.body))
    assert record.duration == pytest.approx(2.0)
    assert record.committed == pytest.approx(1.0)
    assert record.overhead == pytest.approx(0.5)
    (made,) = record.calls
    assert (made.backend, made.result, made.status, made.finish_reasons, made.response_model) == ("small", "ok", 200, ("stop",), "m")
    assert (made.started, made.head, made.first_content, made.held, made.ended) == pytest.approx((0.5, 0.75, 1.0, 1.0, 2.0))
    assert made.input_tokens is None
    assert rig.counted("headgate_requests_total", "main", "primary", "200") == 1
    assert rig.counted("headgate_segment_requests_total", "main", "tenant", "acme") == 1


def test_usage_is_counted_and_costs_whether_or_not_the_client_sees_it() -> None:
    rig = Rig(single())
    rig.call().reply(200, SSE, event("one"), event("", "stop"), USAGE, DONE)
    assert rig.reply.body == event("one") + event("", "stop") + DONE
    (made,) = rig.record.calls
    assert (made.input_tokens, made.output_tokens, made.currency) == (7, 3, "EUR")
    assert made.cost == pytest.approx(0.013)
    assert rig.counted("headgate_tokens_total", "main", "small", "input") == 7
    assert rig.counted("headgate_tokens_total", "main", "small", "output") == 3
    assert rig.counted("headgate_cost_total", "main", "small", "EUR") == pytest.approx(0.013)


def test_an_answer_in_one_piece_passes_through_untouched_with_the_content_type_alone() -> None:
    rig = Rig(single(), stream=False)
    rig.call().reply(200, JSON | {b"server": b"uvicorn", b"set-cookie": b"a=b"}, WHOLE)
    assert (rig.reply.status, rig.reply.body) == (200, WHOLE)
    assert rig.reply.headers["content-type"] == "application/json"
    assert not {"server", "set-cookie"} & set(rig.reply.headers)
    assert rig.record.calls[0].cost == pytest.approx(0.013)


def test_a_stream_without_its_done_gets_one() -> None:
    rig = Rig(single())
    rig.call().reply(200, SSE, event("one"), event("", "stop"))
    assert rig.reply.body == event("one") + event("", "stop") + DONE
    assert rig.record.code == 200


def test_the_next_backend_answers_after_a_failure() -> None:
    rig = Rig(failover())
    rig.call().fail(CONNECT)
    assert not rig.reply.started
    rig.call("big").head(200, SSE)
    rig.call("big").body(event("one"))
    finish(rig, "big")
    assert (rig.reply.headers["x-headgate-backend"], rig.reply.headers["x-headgate-reason"]) == ("big", "failover")
    assert [(made.backend, made.result) for made in rig.record.calls] == [("small", "connect"), ("big", "ok")]
    assert rig.record.calls[0].message == CONNECT.message
    assert (rig.record.backend, rig.record.reason) == ("big", "failover")


def test_debug_headers_only_for_a_key_that_may() -> None:
    rig = Rig(failover(), debug=True)
    rig.call().fail(CONNECT)
    rig.call("big").reply(200, SSE, event("one"), event("", "stop"), DONE)
    assert rig.reply.headers["x-headgate-calls"] == "2"
    assert float(rig.reply.headers["x-headgate-overhead-ms"]) == pytest.approx(500)


def test_content_is_kept_as_it_was_asked_and_served() -> None:
    rig = Rig(single(), keep_content=True)
    rig.call().reply(200, SSE, event("one"), event("", "stop"), USAGE, DONE)
    content = rig.record.content
    assert content is not None
    assert (content.request, content.response, content.truncated) == (rig.raw, rig.reply.body, False)


# Failures before commit.


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
    assert rig.record.calls[0].message == f"answered {status}: because sk-secret"
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
    assert rig.reply.headers["x-headgate-reason"] == "failover"
    assert rig.record.calls[0].message == "a whole reply came where a stream was asked for"


def test_a_reply_too_large_to_hold_is_a_failed_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.exchange.leg.REPLY_BYTES_MAX", 1000)
    rig = Rig(single(HOLD_ALL))
    rig.call().head(200, SSE)
    for _ in range(20):
        rig.call().body(event("word"))
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


# The client.


def test_a_client_that_leaves_before_commit_takes_every_call_with_it() -> None:
    rig = Rig(judged(Hold(tokens=1), lambda outcome: False))
    rig.call().head(200, SSE)
    rig.call().body(event("one"))
    rig.call("big")
    rig.reply.leave()
    assert [made.cancelled for made in rig.calls] == [True, True]
    record = rig.record
    assert (record.code, record.error, record.truncated_by_client, record.committed) == (499, "the client left", True, None)
    assert [made.result for made in record.calls] == ["cancelled", "cancelled"]
    assert rig.lefts == ["before_commit"]
    assert rig.counted("headgate_requests_total", "main", "primary", "499") == 1


def test_a_client_that_leaves_after_commit() -> None:
    rig = Rig(single())
    rig.call().head(200, SSE)
    rig.call().body(event("one"))
    rig.reply.leave()
    assert rig.call().cancelled
    assert (rig.record.code, rig.record.backend, rig.lefts) == (499, "small", ["after_commit"])
    assert rig.record.bytes_out == len(event("one"))


def test_a_client_that_stops_reading_stops_the_backend_and_goes_on_later() -> None:
    rig = Rig(single())
    rig.call().head(200, SSE)
    rig.reply.pause_at = len(event("one")) * 2
    rig.call().body(event("one"))
    assert rig.call().reading
    rig.call().body(event("one"))
    assert not rig.call().reading
    rig.exchange.resume_writing()
    assert rig.call().reading
    finish(rig)
    assert rig.record.code == 200


def test_a_client_whose_buffer_the_held_bytes_fill_stops_the_backend() -> None:
    rig = Rig(single(Hold(tokens=3)))
    rig.reply.pause_at = 1
    rig.call().head(200, SSE)
    rig.call().body(event("one") * 3)
    assert not rig.call().reading


def test_a_client_that_stopped_reading_comments_stops_the_backend_that_then_answers() -> None:
    rig = Rig(single(), keep_alive_after=1)
    rig.reply.pause_at = 1
    rig.pass_time(1)
    assert rig.call().reading
    rig.call().head(200, SSE)
    rig.call().body(event("one"))
    assert not rig.call().reading
    rig.exchange.resume_writing()
    assert rig.call().reading


# Comments (`keep_alive_after`).


def test_comments_are_sent_while_nothing_is_decided_and_stop_at_commit() -> None:
    rig = Rig(single(), keep_alive_after=10)
    rig.pass_time(9.9)
    assert not rig.reply.started
    rig.pass_time(0.2)
    assert rig.reply.status == 200
    assert rig.reply.body == b": keep-alive\n\n"
    assert "x-headgate-backend" not in rig.reply.headers
    rig.pass_time(10)
    rig.call().head(200, SSE)
    rig.call().body(event("one"))
    rig.pass_time(60)
    finish(rig)
    assert rig.reply.body == b": keep-alive\n\n" * 2 + event("one") + event("", "stop") + DONE
    assert (rig.record.code, rig.record.backend) == (200, "small")


@pytest.mark.parametrize(
    "fail",
    [
        lambda call: call.fail(CONNECT),
        lambda call: call.reply(200, JSON, WHOLE),
        lambda call: call.reply(429, JSON, b"{}"),
    ],
)
def test_after_a_comment_an_error_is_one_of_the_stream(fail: Callable[[Any], None]) -> None:
    rig = Rig(single(), keep_alive_after=10)
    rig.pass_time(10)
    fail(rig.call())
    assert rig.reply.status == 200
    assert rig.reply.over
    comment, error, done, _ = rig.reply.body.split(b"\n\n")
    assert (comment, done) == (b": keep-alive", b"data: [DONE]")
    assert json.loads(error.removeprefix(b"data: "))["error"]["type"] in ("server_error", "rate_limit_error")
    assert rig.record.code in (502, 429)
    assert rig.record.committed is None


def test_no_comment_to_a_client_that_wants_no_stream() -> None:
    rig = Rig(single(), keep_alive_after=1, stream=False)
    rig.pass_time(100)
    assert not rig.reply.started


def test_a_client_that_leaves_during_the_comments_gets_no_more() -> None:
    rig = Rig(single(), keep_alive_after=1)
    rig.pass_time(1)
    rig.reply.leave()
    rig.pass_time(10)
    assert rig.reply.body == b": keep-alive\n\n"
    assert (rig.record.code, rig.lefts) == (499, ["before_commit"])


# Policies.


def test_a_policy_that_refuses() -> None:
    def plan() -> Plan:
        outcome = yield from call("small", Hold(tokens=1))
        return Refuse(422, "invalid_request_error", f"{outcome.backend} would not do", "out_of_distribution")

    rig = Rig(plan())
    rig.call().head(200, SSE)
    rig.call().body(event("one"))
    assert rig.call().cancelled
    assert rig.reply.status == 422
    assert rig.reply.error == {
        "message": "small would not do",
        "type": "invalid_request_error",
        "param": None,
        "code": "out_of_distribution",
    }
    assert (rig.record.reason, rig.record.code, rig.record.backend) == ("refused", 422, "")


def test_a_policy_that_refuses_without_a_call() -> None:
    def plan() -> Plan:
        return Refuse(400, "invalid_request_error", "no")
        yield

    rig = Rig(plan())
    assert rig.reply.status == 400
    assert rig.record.calls == ()


def raises_at_once() -> Plan:
    raise ValueError("a bug")
    yield


def raises_later() -> Plan:
    yield from call("small", Hold(tokens=1))
    raise ValueError("a bug")


def calls_the_unknown() -> Plan:
    yield Call("nobody")
    return Refuse(500, "", "")


def yields_nonsense() -> Generator[Any, Any, Any]:
    yield "small"


def answers_nonsense() -> Generator[Any, Any, Any]:
    yield from call("small", Hold(tokens=1))


def answers_a_call_never_made() -> Generator[Any, Any, Verdict]:
    yield from call("small", Hold(tokens=1))
    return Answer(Outcome(7, "small"))


@pytest.mark.parametrize(
    "plan", [raises_at_once, raises_later, calls_the_unknown, yields_nonsense, answers_nonsense, answers_a_call_never_made]
)
def test_a_policy_that_breaks_is_a_500_and_a_record(plan: Callable[[], Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        rig = Rig(plan())
        if rig.calls:
            rig.call().head(200, SSE)
            rig.call().body(event("one"))
            assert rig.call().cancelled
    assert "the policy failed" in caplog.text
    assert (rig.reply.status, rig.reply.error["code"]) == (500, "policy_error")
    assert "bug" not in rig.reply.error["message"]
    assert rig.record.code == 500


def test_a_policy_that_breaks_as_it_is_closed_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def plan() -> Plan:
        try:
            outcome = yield from call("small")
        finally:
            raise ValueError("a bug")
        return Answer(outcome)

    rig = Rig(plan())
    rig.reply.leave()
    assert rig.record.code == 499
    assert "the policy failed as it was closed" in caplog.text


def test_a_policy_may_make_so_many_calls_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    def plan() -> Plan:
        while True:
            yield from call("small")

    rig = Rig(plan())
    for number in range(CALLS_MAX):
        assert len(rig.calls) == number + 1
        rig.call().fail(CONNECT)
    assert len(rig.calls) == CALLS_MAX
    assert (rig.reply.status, rig.reply.error["code"]) == (500, "policy_error")
    assert len(rig.record.calls) == CALLS_MAX


def test_calls_refused_before_they_start_count_too() -> None:
    def plan() -> Plan:
        while True:
            yield from call("small")

    rig = Rig(plan(), priority=1)
    assert rig.reply.status == 500
    assert len(rig.record.calls) == CALLS_MAX


# The worker stops.


def test_an_exchange_that_is_abandoned_before_commit() -> None:
    rig = Rig(single())
    rig.exchange.abandon("the gateway is shutting down")
    assert (rig.reply.status, rig.reply.error["code"]) == (503, "shutting_down")
    assert {"retry-after", "retry-after-ms"} <= set(rig.reply.headers)
    assert rig.call().cancelled
    assert rig.record.code == 503
    rig.exchange.abandon("again")
    assert len(rig.records) == 1


def test_an_exchange_that_is_abandoned_after_commit() -> None:
    rig = Rig(single())
    rig.call().head(200, SSE)
    rig.call().body(event("one"))
    rig.exchange.abandon("the gateway is shutting down")
    assert rig.reply.over
    assert b'"code":"shutting_down"' in rig.reply.body
    assert rig.reply.body.endswith(DONE)
    assert (rig.record.code, rig.record.calls[0].result) == (503, "cancelled")


def test_overlapping_calls_are_not_counted_twice_in_the_overhead() -> None:
    rig = Rig(judged(Hold(tokens=1), lambda outcome: False))
    rig.call().head(200, SSE)
    rig.pass_time(2)
    rig.call().body(event("one"))
    rig.pass_time(3)
    rig.call("big").reply(200, SSE, event("two"), event("", "stop"), DONE)
    assert rig.record.duration == pytest.approx(5.5)
    assert rig.record.overhead == pytest.approx(0.5)
