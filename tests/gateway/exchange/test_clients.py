"""Clients that leave, clients that do not read, clients that wait; and a worker that stops."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from policies.plan import HOLD_ALL, Hold
from tests.gateway.exchange.rig import CONNECT, DONE, JSON, SSE, WHOLE, Rig, event, finish, judged, single

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


def test_a_client_that_leaves_with_the_whole_answer_has_been_served() -> None:
    """Many close at `[DONE]`; the backend may take a moment longer to end its reply."""
    rig = Rig(single())
    rig.call().head(200, SSE)
    rig.call().body(event("one") + event("", "stop") + DONE)
    rig.reply.leave()
    assert (rig.record.code, rig.record.error, rig.record.truncated_by_client, rig.lefts) == (200, "", False, [])
    assert rig.call().cancelled


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


def test_a_call_that_is_over_is_not_paused() -> None:
    rig = Rig(single(HOLD_ALL))
    rig.reply.pause_at = 1
    rig.call().reply(200, SSE, event("one"), event("", "stop"), DONE)
    assert rig.call().reading
    assert rig.record.code == 200


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
