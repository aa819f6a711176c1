"""The state machine of a call on fake pools and a clock turned by hand."""

from __future__ import annotations

import gc
import weakref
from collections import Counter

import pytest

from policies.plan import CallError
from tests.gateway.upstream.rig import Listener, Rig

ONCE = {"attempts": 1}


def fail_once(rig: Rig, kind: str = "closed", **how: bool) -> Listener:
    """A call that fails on its first attempt and is not tried again."""
    _, listener = rig.call()
    rig.last.fail(kind, sent=True, **how)
    rig.loop.run()
    return listener


# What is sent.


@pytest.mark.key("backends[].replicas")
def test_a_whole_request_goes_to_a_replica_under_its_base_path():
    rig = Rig(replicas=["http://a:8000/base/"])
    rig.call()
    assert (rig.pools["a"].address.port, rig.pools["a"].address.tls) == (8000, False)
    assert rig.last.text == (
        b"POST /base/v1/chat/completions HTTP/1.1\r\nhost: a:8000\r\ncontent-type: application/json\r\n"
        b'x-request-id: r1\r\ncontent-length: 13\r\n\r\n{"model":"m"}'
    )


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "host_line"),
    [
        ("https://a.example", "a.example", 443, True, b"host: a.example\r\n"),
        ("http://a.example", "a.example", 80, False, b"host: a.example\r\n"),
        ("http://[::1]:8000", "::1", 8000, False, b"host: [::1]:8000\r\n"),
    ],
)
def test_addresses(url, host, port, tls, host_line):
    rig = Rig(replicas=[url])
    rig.call()
    address = rig.pools[host].address
    assert (address.port, address.tls) == (port, tls)
    assert host_line in rig.last.text


def test_the_bodys_parts_are_not_copied():
    rig = Rig()
    parts = (b'{"prompt":"' + b"x" * 100_000 + b'","model":', b'"m"}')
    rig.call(body=parts)
    assert all(sent is part for sent, part in zip(rig.last.parts[1:], parts, strict=True))


def test_the_body_is_let_go_with_the_head_of_its_reply_and_not_before():
    rig = Rig()
    call, _ = rig.call(body=(b"a long prompt",))
    rig.last.reply(503)
    rig.loop.advance(5)
    assert len(rig.log) == 2
    assert rig.last.text.endswith(b"\r\na long prompt"), "a refused one is sent again"
    rig.last.head(200)
    assert call.ask.body == ()


@pytest.mark.key("backends[].api_key")
def test_the_key_is_sent_as_bearer():
    rig = Rig(api_key="s3cret")
    rig.call()
    assert b"\r\nauthorization: Bearer s3cret\r\n" in rig.last.text
    plain = Rig()
    plain.call()
    assert b"authorization" not in plain.last.text


@pytest.mark.parametrize("key", ["two\r\nlines", "tab\t", "naïve"])
def test_a_key_that_no_header_may_carry_is_refused(key):
    with pytest.raises(ValueError, match="api_key"):
        Rig(api_key=key)


# A reply.


def test_a_reply_is_handed_on_and_counted():
    rig = Rig()
    call, listener = rig.call()
    assert rig.value("in_flight") == 1
    rig.last.head(200)
    rig.last.body(b"one")
    rig.last.body(b"two")
    rig.pass_time(1)
    rig.last.end()
    assert listener.heard == [("head", 200), ("body", b"one"), ("body", b"two"), ("end",)]
    assert [(a.replica, a.result, a.ended - a.started) for a in call.attempts] == [("http://a:1", "ok", 1.0)]
    assert rig.value("calls_total", "ok") == 1
    assert rig.value("in_flight") == 0
    assert rig.counters.histogram("headgate_upstream_call_duration_seconds", "small").sum == 1.0


def test_a_chunk_goes_to_the_receiver_without_a_call_between():
    rig = Rig()
    _, listener = rig.call()
    rig.last.head(200)
    assert rig.last.receiver.response_body == listener.on_body


def test_an_error_status_is_a_reply_too():
    rig = Rig()
    call, listener = rig.call()
    rig.last.reply(400, body=b'{"error":{}}')
    assert listener.heard == [("head", 400), ("body", b'{"error":{}}'), ("end",)]
    assert call.attempts[0].result == "status:400"
    assert rig.value("calls_total", "status") == 1


def test_nothing_is_left_of_a_call_once_it_is_over():
    rig = Rig()
    call, listener = rig.call()
    rig.last.reply()
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(listener)
        rig.last.receiver = None
        del listener, call
        assert gone() is None
    finally:
        gc.enable()


def test_a_reply_that_breaks_off():
    rig = Rig()
    call, listener = rig.call()
    rig.last.head(200)
    rig.last.fail("truncated", sent=True, received=True)
    assert listener.words == ["head", "failure"]
    assert listener.error.kind == call.attempts[0].result == "truncated"
    assert len(rig.log) == 1


def test_a_close_after_the_head_is_truncated():
    rig = Rig()
    _, listener = rig.call()
    rig.last.head(200)
    rig.last.fail("closed", sent=True)
    assert listener.error.kind == "truncated"


# Cancel, fault, pause.


def test_cancel_closes_the_connection_and_nothing_more_is_heard():
    rig = Rig()
    call, listener = rig.call()
    rig.last.head(200)
    call.cancel()
    call.cancel()
    assert rig.last.cancelled
    assert listener.words == ["head"]
    assert call.attempts[0].result == "cancelled"
    assert (rig.value("calls_total", "cancelled"), rig.value("in_flight")) == (1, 0)


def test_cancel_within_on_head():
    rig = Rig()
    listener = Listener()
    call = rig.upstream.call(rig.ask(), listener)
    listener.on_head = lambda status, headers: call.cancel()
    rig.last.head(200)
    assert rig.last.cancelled
    assert rig.value("in_flight") == 0


def test_a_fault_found_by_the_receiver_ends_an_open_call():
    rig = Rig(breaker={"failures": 1})
    call, listener = rig.call()
    rig.last.head(200)
    call.fault(CallError("error_event", "CUDA error"))
    assert rig.last.cancelled
    assert listener.words == ["head"]
    assert call.attempts[0].result == "error_event"
    assert rig.value("calls_total", "error_event") == 1
    assert rig.turned == [("small", "http://a:1", True)]


def test_a_fault_found_at_the_end_counts_instead_of_ok():
    """An engine that dies in the middle may still end its stream as HTTP demands."""
    rig = Rig(breaker={"failures": 2}, replicas=["http://a:1"])
    for _ in range(2):
        call, listener = rig.call()
        listener.at_end = lambda call=call: call.fault(CallError("truncated", "no finish_reason"))
        rig.last.reply()
        assert call.attempts[0].result == "truncated"
    assert (rig.value("calls_total", "ok"), rig.value("calls_total", "truncated")) == (0, 2)
    assert rig.turned == [("small", "http://a:1", True)]


def test_a_fault_after_the_end_is_too_late():
    rig = Rig(breaker={"failures": 1})
    call, _ = rig.call()
    rig.last.reply()
    call.fault(CallError("protocol", "x"))
    assert rig.turned == []
    assert rig.value("calls_total", "protocol") == 0


def test_a_reply_too_large_is_not_the_replicas_fault():
    rig = Rig(breaker={"failures": 1})
    call, _ = rig.call()
    rig.last.head(200)
    call.fault(CallError("too_large", "x"))
    assert rig.turned == []


def test_pausing_reaches_the_connection():
    rig = Rig()
    call, _ = rig.call()
    rig.last.head(200)
    call.pause_reading()
    assert not rig.last.reading
    call.resume_reading()
    assert rig.last.reading


def test_a_receiver_that_raises_at_the_end_leaks_no_place():
    rig = Rig(concurrency={"limit": 1})
    _, listener = rig.call()
    listener.at_end = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        rig.last.reply()
    assert rig.value("in_flight") == 0
    assert rig.value("calls_total", "ok") == 1


# Timeouts.


@pytest.mark.key("backends[].timeouts.connect")
def test_connect_is_the_wires_and_its_failure_is_passed_on():
    rig = Rig(timeouts={"connect": 1.5}, retries=ONCE)
    _, listener = rig.call()
    assert rig.last.connect_timeout_s == 1.5
    rig.last.fail("timeout_connect")
    assert listener.error.kind == "timeout_connect"


@pytest.mark.key("backends[].timeouts.first_token")
def test_first_token_runs_until_content_is_seen():
    rig = Rig(timeouts={"first_token": 5, "between_tokens": 60})
    silent, deaf = rig.call(stream=True)
    first = rig.last
    talking, fine = rig.call(stream=True)
    second = rig.last
    for ticket in (first, second):
        ticket.head(200)
        ticket.body(b": hello\n\n")
    talking.content_seen()
    rig.pass_time(4.75)
    assert "failure" not in deaf.words
    rig.pass_time(0.5)
    assert deaf.error.kind == silent.attempts[0].result == "timeout_first_token"
    assert first.cancelled
    assert "failure" not in fine.words
    rig.pass_time(20)
    assert "failure" not in fine.words


def test_first_content_is_measured_once():
    rig = Rig()
    call, _ = rig.call(stream=True)
    rig.pass_time(2)
    rig.last.head(200)
    call.content_seen()
    rig.pass_time(1)
    call.content_seen()
    assert rig.counters.histogram("headgate_upstream_first_token_seconds", "small").sum == 2.0


@pytest.mark.key("backends[].timeouts.between_tokens")
def test_between_tokens_is_silence():
    rig = Rig(timeouts={"between_tokens": 3})
    call, listener = rig.call(stream=True)
    rig.last.head(200)
    call.content_seen()
    for _ in range(4):
        rig.pass_time(2)
        rig.last.body(b"x")
    assert "failure" not in listener.words
    rig.pass_time(3.5)
    assert listener.error.kind == "timeout_between_tokens"


def test_a_client_that_does_not_read_is_not_the_backends_silence():
    rig = Rig(timeouts={"between_tokens": 3})
    call, listener = rig.call(stream=True)
    rig.last.head(200)
    call.content_seen()
    call.pause_reading()
    rig.pass_time(20)
    assert "failure" not in listener.words
    call.resume_reading()
    rig.pass_time(2.5)
    assert "failure" not in listener.words
    rig.pass_time(1)
    assert listener.error.kind == "timeout_between_tokens"


@pytest.mark.key("backends[].timeouts.total")
@pytest.mark.parametrize("stream", [False, True])
def test_total_is_for_the_whole_call(stream):
    rig = Rig(timeouts={"total": 8, "first_token": 60, "between_tokens": 60})
    _, listener = rig.call(stream=stream)
    rig.pass_time(7.75)
    assert listener.heard == []
    rig.pass_time(0.5)
    assert listener.error.kind == "timeout_total"


def test_a_reply_that_is_not_streamed_has_no_first_token():
    rig = Rig(timeouts={"total": 100, "first_token": 1, "between_tokens": 1})
    _, listener = rig.call(stream=False)
    rig.pass_time(50)
    assert listener.heard == []


def test_total_speaks_against_a_replica_only_before_its_head():
    rig = Rig(timeouts={"total": 5, "between_tokens": 60}, breaker={"failures": 1}, replicas=["http://a:1"])
    call, _ = rig.call(stream=True)
    rig.last.head(200)
    call.content_seen()
    rig.pass_time(6)
    assert rig.turned == []
    rig.call(stream=True)
    rig.pass_time(6)
    assert rig.turned == [("small", "http://a:1", True)]


def test_the_exchanges_deadline():
    rig = Rig(breaker={"failures": 1})
    _, listener = rig.call(deadline=rig.loop.clock + 2)
    rig.pass_time(2.25)
    assert listener.error.kind == "deadline"
    assert rig.last.cancelled
    assert rig.turned == []


@pytest.mark.parametrize("kind", ["timeout_first_token", "timeout_total"])
def test_a_timeout_is_never_retried(kind):
    rig = Rig(timeouts={"first_token": 2 if kind == "timeout_first_token" else 60, "total": 3}, retries={"attempts": 5})
    rig.call(stream=True)
    rig.pass_time(10)
    assert len(rig.log) == 1
    assert rig.value("calls_total", kind) == 1


# Retries.


@pytest.mark.key("backends[].retries.attempts")
def test_a_refused_attempt_is_tried_again_elsewhere():
    rig = Rig(retries={"attempts": 2})
    call, listener = rig.call()
    rig.last.fail("connect")
    assert listener.heard == []
    rig.pass_time(0.25)
    assert rig.hosts == ["a", "b"]
    rig.last.reply()
    assert listener.words == ["head", "body", "end"]
    assert [attempt.result for attempt in call.attempts] == ["connect", "ok"]
    assert (rig.value("retries_total", "connect"), rig.value("calls_total", "ok")) == (1, 1)


def test_attempts_are_bounded():
    rig = Rig(retries={"attempts": 3})
    call, listener = rig.call()
    for _ in range(3):
        rig.last.fail("connect")
        rig.pass_time(1)
    assert listener.words == ["failure"]
    assert listener.error.kind == "connect"
    assert [a.replica for a in call.attempts[:2]] == ["http://a:1", "http://b:2"]
    assert len(call.attempts) == 3


def test_one_attempt_means_no_retry():
    rig = Rig(retries=ONCE)
    assert fail_once(rig, "connect").words == ["failure"]
    assert len(rig.log) == 1


@pytest.mark.key("backends[].retries.retry_on")
@pytest.mark.parametrize("status", [429, 503])
def test_a_refusing_status_is_swallowed_and_tried_again(status):
    rig = Rig()
    call, listener = rig.call()
    rig.last.reply(status, body=b"busy")
    rig.pass_time(0.25)
    assert listener.heard == []
    assert not rig.log[0][1].cancelled
    rig.last.reply(200)
    assert listener.words == ["head", "body", "end"]
    assert [attempt.result for attempt in call.attempts] == [f"status:{status}", "ok"]
    assert rig.hosts == ["a", "b"]


@pytest.mark.parametrize(("retry_on", "how"), [(["connect"], 429), (["429"], 503), (["503"], "connect"), ([], "closed")])
def test_what_is_not_listed_is_passed_on(retry_on, how):
    rig = Rig(retries={"retry_on": retry_on})
    _, listener = rig.call()
    rig.last.reply(how) if isinstance(how, int) else rig.last.fail(how)
    rig.pass_time(1)
    assert len(rig.log) == 1
    assert listener.heard[0] == (("head", how) if isinstance(how, int) else ("failure", how))


def test_the_last_refusal_is_passed_on_as_the_backend_wrote_it():
    rig = Rig(retries={"attempts": 2})
    _, listener = rig.call()
    rig.last.reply(429, body=b"first")
    rig.pass_time(0.25)
    rig.last.reply(429, {b"retry-after": b"7"}, body=b"second")
    assert listener.heard == [("head", 429), ("body", b"second"), ("end",)]


def test_a_status_that_is_no_refusal_is_final():
    rig = Rig()
    for status in (400, 500, 502, 504):
        rig.call()
        rig.last.reply(status)
    rig.pass_time(1)
    assert len(rig.log) == 4


@pytest.mark.parametrize("how", [{}, {"reused": True}])
def test_a_close_without_a_byte_is_a_refusal(how):
    """The peer is gone, whether it crashed or closed an idle connection just as the request went out."""
    rig = Rig(replicas=["http://a:1"])
    _, listener = rig.call()
    rig.last.fail("closed", sent=True, **how)
    rig.pass_time(0.25)
    rig.last.reply()
    assert listener.words == ["head", "body", "end"]


@pytest.mark.parametrize(("kind", "received"), [("closed", True), ("truncated", True), ("protocol", True)])
def test_once_an_answer_has_begun_there_is_no_retry(kind, received):
    rig = Rig()
    listener = fail_once(rig, kind, received=received)
    rig.pass_time(1)
    assert len(rig.log) == 1
    assert listener.words == ["failure"]


@pytest.mark.key("backends[].retries.backoff")
def test_backoff_doubles_with_jitter():
    rig = Rig(retries={"attempts": 4, "backoff": 1.0}, jitter=0.5, breaker={"failures": 99})
    call, _ = rig.call()
    for wait in (0.5, 1.0, 2.0):
        rig.last.fail("connect")
        rig.loop.advance(wait - 0.01)
        before = len(rig.log)
        rig.loop.advance(0.01)
        assert len(rig.log) == before + 1
    assert len(call.attempts) == 4


def test_retry_after_is_obeyed_where_there_is_no_other_replica():
    rig = Rig(replicas=["http://a:1"])
    rig.call()
    rig.last.reply(429, {b"retry-after": b"3"})
    rig.loop.advance(2.9)
    assert len(rig.log) == 1
    rig.loop.advance(0.1)
    assert len(rig.log) == 2


def test_retry_after_of_one_replica_does_not_bind_another():
    rig = Rig()
    rig.call()
    rig.last.reply(429, {b"retry-after": b"3"})
    rig.loop.advance(0.1)
    assert rig.hosts == ["a", "b"]


def test_a_pause_too_long_is_the_clients_to_make():
    rig = Rig(replicas=["http://a:1"])
    _, listener = rig.call()
    rig.last.reply(503, {b"retry-after": b"30"})
    assert listener.heard[0] == ("head", 503)


def test_no_retry_that_would_come_after_the_deadline():
    rig = Rig(replicas=["http://a:1"])
    _, listener = rig.call(deadline=rig.loop.clock + 2)
    rig.last.reply(503, {b"retry-after": b"3"})
    assert listener.heard[0] == ("head", 503)


@pytest.mark.key("backends[].retries.budget_percent")
def test_retries_are_bounded_by_the_budget():
    rig = Rig(retries={"budget_percent": 10}, breaker={"failures": 1000}, concurrency={"limit": 1000, "queue": 0})
    for _ in range(500):
        rig.call()
    for _, ticket in list(rig.log):
        ticket.fail("connect")
    rig.loop.advance(0.2)
    assert len(rig.log) == 500 + 100 + 50
    assert rig.value("retries_denied_total") == 350
    assert rig.value("calls_total", "connect") == 350


def test_no_budget_no_retry():
    rig = Rig(retries={"budget_percent": 0})
    assert fail_once(rig, "connect").words == ["failure"]
    assert rig.value("retries_denied_total") == 1


def test_the_rest_of_a_refusal_is_waited_for_so_that_its_connection_is_kept():
    rig = Rig()
    rig.call()
    first = rig.last
    first.head(503)
    first.body(b"part")
    rig.loop.advance(0.2)
    assert len(rig.log) == 1
    first.end()
    rig.loop.advance(0.2)
    assert len(rig.log) == 2
    assert not first.cancelled


def test_but_not_for_long():
    rig = Rig()
    rig.call()
    rig.last.head(503)
    rig.pass_time(0.5)
    assert rig.log[0][1].cancelled
    assert rig.hosts == ["a", "b"]


def test_nor_for_much():
    rig = Rig()
    rig.call()
    rig.last.head(429)
    rig.last.body(b"x" * 70_000)
    assert rig.log[0][1].cancelled
    rig.pass_time(0.25)
    assert rig.hosts == ["a", "b"]


def test_a_refusal_that_breaks_off_is_one():
    rig = Rig()
    rig.call()
    rig.last.head(503)
    rig.last.fail("truncated", received=True)
    rig.pass_time(0.25)
    assert rig.hosts == ["a", "b"]


@pytest.mark.parametrize("moment", ["refused", "waiting"])
def test_cancel_between_attempts(moment):
    rig = Rig()
    call, listener = rig.call()
    rig.last.head(503)
    if moment == "waiting":
        rig.last.end()
    call.cancel()
    rig.pass_time(5)
    assert len(rig.log) == 1
    assert listener.heard == []
    assert rig.value("in_flight") == 0


def test_when_no_replica_is_left_to_try_the_refusal_is_the_failure():
    rig = Rig(replicas=["http://a:1"], breaker={"failures": 1})
    _, listener = rig.call()
    rig.last.fail("connect")
    rig.pass_time(1)
    assert listener.error.kind == "connect"
    assert len(rig.log) == 1


# The breaker.


@pytest.mark.key("backends[].breaker.failures")
def test_a_failing_replica_is_left_alone():
    rig = Rig(breaker={"failures": 3}, retries=ONCE, balance="round_robin")
    for _ in range(6):
        _, _ = rig.call()
        rig.last.fail("connect") if rig.hosts[-1] == "a" else rig.last.reply()
    assert rig.turned == [("small", "http://a:1", True)]
    assert rig.value("breaker_open") == 1
    assert [(view.url, view.breaker_open) for view in rig.upstream.replicas] == [("http://a:1", True), ("http://b:2", False)]
    for _ in range(4):
        rig.call()
    assert rig.hosts[-4:] == ["b"] * 4


@pytest.mark.key("backends[].breaker.open_for")
def test_after_a_while_one_call_tries_it():
    rig = Rig(breaker={"failures": 1, "open_for": 10}, retries=ONCE, replicas=["http://a:1"])
    fail_once(rig)
    _, refused = rig.call()
    rig.loop.run()
    assert refused.error.kind == "breaker_open"
    rig.pass_time(10)
    rig.call()
    trial = rig.last
    _, meanwhile = rig.call()
    rig.loop.run()
    assert meanwhile.error.kind == "breaker_open"
    trial.head(200)
    assert rig.turned[-1] == ("small", "http://a:1", False)
    assert rig.value("breaker_open") == 0
    _, after = rig.call()
    rig.last.reply()
    assert after.words == ["head", "body", "end"]


def test_a_trial_that_fails_or_is_cancelled():
    rig = Rig(breaker={"failures": 1, "open_for": 10}, retries=ONCE, replicas=["http://a:1"])
    fail_once(rig)
    rig.pass_time(10)
    call, _ = rig.call()
    call.cancel()
    fail_once(rig)
    _, refused = rig.call()
    rig.loop.run()
    assert refused.error.kind == "breaker_open"
    assert rig.turned == [("small", "http://a:1", True)]


@pytest.mark.parametrize(
    ("kind", "status", "headers", "counts"),
    [
        ("vllm", 500, {}, True),
        ("vllm", 502, {}, True),
        ("vllm", 503, {}, True),
        ("vllm", 503, {b"retry-after": b"1"}, False),
        ("vllm", 429, {}, False),
        ("vllm", 400, {}, False),
        ("vllm", 501, {}, False),
        ("ollama", 503, {}, False),
    ],
)
def test_which_statuses_speak_against_a_replica(kind, status, headers, counts):
    rig = Rig(kind=kind, breaker={"failures": 1}, retries=ONCE, replicas=["http://a:1"])
    rig.call()
    rig.last.reply(status, headers)
    assert bool(rig.turned) == counts


def test_a_swallowed_503_speaks_against_its_replica():
    rig = Rig(breaker={"failures": 1})
    rig.call()
    rig.last.reply(503)
    assert rig.turned == [("small", "http://a:1", True)]


def test_the_keep_alive_race_and_a_full_pool_do_not():
    rig = Rig(breaker={"failures": 1}, retries=ONCE, replicas=["http://a:1"])
    assert fail_once(rig, "closed", reused=True).error.kind == "closed"
    assert fail_once(rig, "exhausted").error.kind == "queue_full"
    assert rig.turned == []
    fail_once(rig, "closed")
    assert rig.turned != []


# The limit.


@pytest.mark.key("backends[].concurrency.limit")
def test_calls_beyond_the_limit_wait_their_turn():
    rig = Rig(concurrency={"limit": 2})
    first = [rig.call() for _ in range(2)]
    _, third = rig.call()
    assert len(rig.log) == 2
    assert (rig.value("in_flight"), rig.value("queue_depth")) == (2, 1)
    rig.last.reply()
    rig.loop.run()
    assert len(rig.log) == 3
    rig.last.reply()
    assert third.words == ["head", "body", "end"]
    assert (rig.value("in_flight"), rig.value("queue_depth")) == (1, 0)
    first[0][0].cancel()
    assert rig.value("in_flight") == 0


@pytest.mark.key("backends[].concurrency.queue")
def test_a_full_queue_refuses():
    rig = Rig(concurrency={"limit": 1, "queue": 1})
    rig.call()
    rig.call()
    _, third = rig.call()
    assert third.heard == [], "a failure arrives after call() has returned"
    rig.loop.run()
    assert third.error.kind == "queue_full"
    assert rig.value("queue_refused_total", "full") == 1
    assert rig.value("in_flight") == 1


@pytest.mark.key("backends[].concurrency.queue_for")
def test_a_wait_has_an_end():
    rig = Rig(concurrency={"limit": 1, "queue_for": 2})
    rig.call()
    _, second = rig.call()
    rig.pass_time(1.75)
    assert second.heard == []
    rig.pass_time(0.5)
    assert second.error.kind == "queue_timeout"
    assert (rig.value("queue_refused_total", "timeout"), rig.value("queue_depth")) == (1, 0)
    rig.last.reply()
    rig.loop.run()
    assert len(rig.log) == 1


def test_a_deadline_runs_in_the_queue_too():
    rig = Rig(concurrency={"limit": 1, "queue_for": 100})
    rig.call()
    _, second = rig.call(deadline=rig.loop.clock + 1)
    rig.pass_time(1.25)
    assert second.error.kind == "deadline"


def test_a_cancelled_waiter_leaves_the_queue():
    rig = Rig(concurrency={"limit": 1})
    rig.call()
    second, _ = rig.call()
    _, third = rig.call()
    second.cancel()
    rig.last.reply()
    rig.loop.run()
    rig.last.reply()
    assert third.words == ["head", "body", "end"]
    assert rig.value("queue_depth") == 0


def test_a_waiter_cancelled_just_as_its_turn_comes_passes_the_place_on():
    rig = Rig(concurrency={"limit": 1})
    rig.call()
    second, _ = rig.call()
    third, _ = rig.call()
    rig.last.reply()
    second.cancel()
    rig.loop.run()
    assert len(rig.log) == 2
    assert third.attempts
    assert rig.value("in_flight") == 1


def test_workers_share_the_machines_limit():
    rig = Rig(concurrency={"limit": 8}, share=4)
    for _ in range(5):
        rig.call()
    assert len(rig.log) == 2
    rig.upstream.set_share(2)
    rig.loop.run()
    assert len(rig.log) == 4


def test_waiting_is_not_part_of_total():
    rig = Rig(concurrency={"limit": 1, "queue_for": 100}, timeouts={"total": 5})
    rig.call()
    _, second = rig.call()
    rig.pass_time(4)
    rig.last.reply()
    rig.pass_time(4)
    assert second.heard == []


# Replicas.


@pytest.mark.key("backends[].balance")
def test_balance():
    even = Rig(balance="least_outstanding")
    for _ in range(10):
        even.call()
    assert Counter(even.hosts) == {"a": 5, "b": 5}
    turns = Rig(balance="round_robin")
    for _ in range(4):
        turns.call()
    assert turns.hosts == ["a", "b", "a", "b"]
    sticky = Rig(balance="prefix_hash")
    for _ in range(4):
        sticky.call(affinity=42)
        sticky.last.reply()
    assert len(set(sticky.hosts)) == 1


def test_only_ready_replicas_are_called():
    rig = Rig()
    rig.upstream.set_replicas({"http://a:1": False, "http://b:2": True})
    for _ in range(3):
        rig.call()
    assert set(rig.hosts) == {"b"}
    rig.upstream.set_replicas({"http://a:1": False, "http://b:2": False})
    _, listener = rig.call()
    rig.loop.run()
    assert listener.error.kind == "unready"
    assert rig.value("calls_total", "unready") == 1
    rig.upstream.set_replicas({})
    rig.call()
    assert len(rig.log) == 4, "what no probe has spoken of counts as ready"


def test_broken_and_unready_are_told_apart():
    rig = Rig(breaker={"failures": 1}, retries=ONCE)
    rig.upstream.set_replicas({"http://b:2": False})
    fail_once(rig)
    _, listener = rig.call()
    rig.loop.run()
    assert listener.error.kind == "breaker_open"


# Retiring.


def test_close_lets_calls_end_and_queued_ones_go_out():
    rig = Rig(concurrency={"limit": 1}, replicas=["http://a:1"], breaker={"failures": 1})
    _, first = rig.call()
    _, second = rig.call()
    rig.upstream.close()
    assert rig.pools["a"].closed
    rig.last.reply()
    rig.loop.run()
    rig.last.head(200)
    rig.last.fail("truncated", received=True)
    rig.loop.run()
    assert first.words == ["head", "body", "end"]
    assert second.words == ["head", "failure"]
    assert rig.value("breaker_open") == 0, "a backend that is gone leaves nothing in the gauge"
    assert rig.ticker._sweeps == []


def test_a_late_call_is_still_served():
    rig = Rig()
    rig.upstream.close()
    _, listener = rig.call()
    rig.last.reply()
    assert listener.words == ["head", "body", "end"]
