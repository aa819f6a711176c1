"""Audits, driven: what is asked once the client has its answer, what is let finish, and what becomes of what cannot be compared."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.exchange import audits
from gateway.exchange.audits import AUDIT_FOR_S
from gateway.link.messages import AuditRecord
from gateway.protocol.said import COMPARED_BYTES_MAX
from policies.cascade import Cascade, CompiledAudit, CompiledStage
from policies.deferral import OneScore
from policies.failover import Failover
from policies.plan import Agreement, Call, CallError, Evidence, Features, Hold, Plan
from tests.gateway.exchange.rig import CONNECT, DONE, JSON, SSE, USAGE, Rig, event
from tests.gateway.exchange.test_cascade import token

ACCEPTED, DEFERRED = "audit_accepted", "audit_deferred"


def plan(
    *stages: str,
    accepted: float = 100,
    deferred: float = 100,
    agree: Agreement = "exact",
    serve_held: bool = False,
    last: tuple[str, ...] = ("big",),
) -> Plan:
    verbs = [Call(name, Hold(tokens=1), Evidence()) for name in stages or ("small",)]
    compiled = tuple(CompiledStage(verb.backend, verb, OneScore("mean_logprob", -0.5), serve_unscored=True) for verb in verbs)
    audit = CompiledAudit(accepted, deferred, agree)
    return Cascade("main", compiled, Failover(last), serve_held=serve_held, audit=audit).decide(Features("x-1", "chat", "chat"))


def whole(text: str, logprob: float | None = None) -> bytes:
    choice: dict[str, Any] = {"index": 0, "message": {"content": text}, "finish_reason": "stop"}
    if logprob is not None:
        choice["logprobs"] = {"content": [{"token": text, "logprob": logprob, "bytes": None, "top_logprobs": []}]}
    return json.dumps({"model": "m", "choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}).encode()


def streams(rig: Rig, name: str, *words: str, logprob: float | None = None) -> None:
    """The rest of a stream, or all of it."""
    call = rig.call(name)
    if not call.status:
        call.head(200, SSE)
    for word in words:
        call.body(event(word) if logprob is None else token(word, logprob))
    call.body(event("", "stop") + USAGE + DONE)
    call.end()


def accepted_rig(**options: Any) -> Rig:
    """An accepted answer that is whole: `yes sir`."""
    rig = Rig(plan(**{name: options.pop(name) for name in ("agree", "accepted", "last") if name in options}), **options)
    streams(rig, "small", "yes", " sir", logprob=-0.1)
    return rig


def deferred_rig(**options: Any) -> Rig:
    """`small` was not sure after `yes`; its reply goes on."""
    rig = Rig(plan(**options))
    rig.call().head(200, SSE)
    rig.call().body(token("yes", -2.0))
    return rig


def audit(rig: Rig) -> AuditRecord:
    (found,) = rig.record.audits
    return found


def test_the_last_stage_is_asked_the_same_once_the_answer_is_whole() -> None:
    rig = Rig(plan())
    rig.call().head(200, SSE)
    rig.call().body(token("yes", -0.1))
    assert rig.reply.body == event("yes")
    assert rig.upstreams["big"].calls == []
    streams(rig, "small", " sir", logprob=-0.1)
    assert rig.reply.over
    assert (rig.records, rig.released, len(rig.audits.running)) == ([], 0, 1), "its record and its lease wait for the audit"
    asked, small = json.loads(rig.call("big").request_body), json.loads(rig.call().request_body)
    assert small.pop("logprobs") is True
    assert asked == {**small, "model": "big-model"}
    assert rig.call("big").ask.deadline == rig.loop.clock + AUDIT_FOR_S
    rig.pass_time(2)
    streams(rig, "big", "yes sir")
    record = rig.record
    assert (record.backend, record.reason, len(record.calls), record.duration) == ("small", "primary", 1, pytest.approx(0.5))
    found = audit(rig)
    assert (found.purpose, found.backend, found.agreed, found.why) == (ACCEPTED, "big", True, "")
    assert found.call is not None
    assert (found.call.backend, found.call.result, found.call.input_tokens, found.call.output_tokens) == ("big", "ok", 7, 3)
    assert (found.call.started, found.call.ended) == (pytest.approx(0.5), pytest.approx(2.5)), "since the exchange's start"
    assert found.call.cost == pytest.approx(0.013)
    assert found.call.span_id not in ("", record.calls[0].span_id)
    assert rig.counted("headgate_audits_total", "main", ACCEPTED, "agreed") == 1
    assert rig.counted("headgate_tokens_total", "main", "big", "input") == 7, "it costs like any call"
    assert rig.counted("headgate_requests_total", "main", "primary", "200") == 1, "and is none of the clients' requests"
    assert all(timer.is_cancelled for timer in rig.loop._later), "nothing of it is kept for as long as it might have taken"


def test_the_record_is_of_when_the_answer_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.exchange import recording

    rig = accepted_rig()
    rig.pass_time(7)
    monkeypatch.setattr(recording.time, "time", lambda: 1_000.0)  # compiled code asks the module too
    streams(rig, "big", "yes sir")
    assert rig.record.started_at == pytest.approx(1_000 - 7 - 0.5)


@pytest.mark.parametrize(("said", "result"), [("yes sir", "agreed"), ("no sir", "disagreed")])
@pytest.mark.parametrize("stream", [False, True])
def test_an_accepted_answer_is_compared_with_that_of_the_last_stage(stream: bool, said: str, result: str) -> None:
    rig = Rig(plan(), stream=stream)
    if stream:
        streams(rig, "small", "yes ", "sir", logprob=-0.1)
        streams(rig, "big", said)
    else:
        rig.call().reply(200, JSON, whole("yes sir", -0.1))
        rig.call("big").reply(200, JSON, whole(said))
    assert rig.reply.status == 200
    assert audit(rig).agreed is (result == "agreed")
    assert rig.counted("headgate_audits_total", "main", ACCEPTED, result) == 1


@pytest.mark.parametrize("first", ["small", "big"])
def test_a_deferred_reply_is_let_finish_and_compared_with_the_answer(first: str) -> None:
    rig = deferred_rig()
    rig.call("big").head(200, SSE)
    rig.call("big").body(event("yes"))
    assert not rig.call().cancelled
    answer = {"big": lambda: streams(rig, "big", " sir"), "small": lambda: streams(rig, "small", " sir", logprob=-0.1)}
    answer.pop(first)()
    assert rig.records == []
    (last,) = answer.values()
    last()
    assert rig.reply.body == event("yes") + event(" sir") + event("", "stop") + DONE, "the client gets nothing of it"
    record = rig.record
    small, big = record.calls
    assert (record.backend, small.result, big.result) == ("big", "ok", "ok")
    assert (small.output_tokens, small.finish_reasons, small.cost) == (3, ("stop",), pytest.approx(0.013))
    assert small.scores is not None
    assert (small.scores.tokens, small.scores.mean_logprob) == (1, -2.0), "of what was held, as ever"
    assert audit(rig) == AuditRecord(DEFERRED, "small", True, "", None)


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("lacks", ["answer", "other"])
def test_a_last_event_without_its_blank_line_is_compared_too(deferred: bool, lacks: str) -> None:
    rig = deferred_rig() if deferred else Rig(plan())
    if not deferred:
        rig.call().head(200, SSE)
        rig.call().body(token("yes", -0.1))
    for name in ("big", "small") if deferred else ("small", "big"):
        call = rig.call(name)
        if name == "big":
            call.head(200, SSE)
            call.body(event("yes"))
        last = event(" sir", "stop")
        call.body(last.rstrip(b"\n") if (name == ("big" if deferred else "small")) == (lacks == "answer") else last + DONE)
        call.end()
    assert b" sir" in rig.reply.body
    assert audit(rig).agreed is True


def test_deferred_replies_that_were_whole_and_both_kinds_at_once() -> None:
    rig = Rig(plan("small", "huge"), stream=False, backends=("small", "huge", "big"))
    rig.call().reply(200, JSON, whole("no", -2.0))
    rig.call("huge").reply(200, JSON, whole("yes", -0.1))
    assert json.loads(rig.reply.body)["choices"][0]["message"]["content"] == "yes"
    rig.call("big").reply(200, JSON, whole("yes"))
    assert [(each.purpose, each.backend, each.agreed) for each in rig.record.audits] == [
        (DEFERRED, "small", False),
        (ACCEPTED, "big", True),
    ]


def test_what_is_not_sampled_is_cancelled_as_ever() -> None:
    rig = deferred_rig(deferred=0, serve_held=True)
    assert not rig.call().cancelled, "it may still be served"
    rig.call("big").head(200, SSE)
    rig.call("big").body(event("no"))
    assert rig.call().cancelled
    streams(rig, "big")
    assert rig.record.audits == ()


@pytest.mark.parametrize("agree", ["label", "exact"])
def test_the_policy_says_how_they_are_compared(agree: Agreement) -> None:
    rig = accepted_rig(agree=agree)
    streams(rig, "big", "**Yes sir.**")
    assert audit(rig).agreed is (agree == "label")


def test_content_is_kept_beside() -> None:
    rig = accepted_rig(keep_content=True)
    streams(rig, "big", "yes sir")
    assert rig.record.content is not None
    assert rig.record.content.response == rig.reply.body


# What cannot be told.


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (CONNECT, "error"),
        (CallError("truncated", "gone"), "error"),
        (CallError("queue_full", "no room"), "busy"),
        (CallError("timeout_first_token", "slow"), "timeout"),
        (CallError("deadline", "slow"), "timeout"),
    ],
)
def test_a_call_that_fails_tells_nothing(error: CallError, why: str) -> None:
    rig = accepted_rig()
    rig.call("big").fail(error)
    found = audit(rig)
    assert (found.agreed, found.why, found.call and found.call.result) == (None, why, error.kind)
    assert (rig.record.code, rig.record.error) == (200, "")
    assert rig.counted("headgate_audits_total", "main", ACCEPTED, why) == 1
    assert rig.counted("headgate_requests_total", "main", "primary", "200") == 1


def test_an_audit_that_the_backend_refuses_is_an_error_of_the_audit_alone() -> None:
    rig = accepted_rig(stream=True)
    rig.call("big").reply(400, JSON, b'{"error":{"message":"too long for me"}}')
    assert (audit(rig).why, audit(rig).call and audit(rig).call.status) == ("error", 400)  # type: ignore[union-attr]
    assert rig.reply.status == 200


def test_where_the_last_stage_fails_over_so_does_its_audit() -> None:
    rig = accepted_rig(last=("big", "huge"), backends=("small", "big", "huge"))
    rig.call("big").reply(500, JSON, b'{"error":{"message":"down"}}')
    streams(rig, "huge", "yes sir")
    found = audit(rig)
    assert (found.backend, found.agreed, found.why) == ("huge", True, "")
    assert found.call is not None
    assert (found.call.backend, found.call.result) == ("huge", "ok")
    (before,) = found.before
    assert (before.backend, before.result, before.status, before.message) == ("big", "status", 500, "answered 500: down")
    assert len({before.span_id, found.call.span_id, rig.record.calls[0].span_id}) == 3
    rig = accepted_rig(last=("big", "huge"), backends=("small", "big", "huge"))
    rig.call("big").reply(500, JSON, b'{"error":{"message":"down"}}')
    rig.call("huge").reply(500, JSON, b'{"error":{"message":"down"}}')
    assert (audit(rig).backend, audit(rig).agreed, audit(rig).why) == ("huge", None, "error")
    assert [(call.backend, call.result) for call in audit(rig).calls] == [("big", "status"), ("huge", "status")]


@pytest.mark.parametrize("before", [True, False])
def test_a_deferred_reply_that_fails_tells_nothing(before: bool) -> None:
    rig = deferred_rig()
    if before:
        rig.call().fail(CallError("truncated", "gone"))
    rig.call("big").head(200, SSE)
    rig.call("big").body(event("no"))
    if not before:
        rig.call().fail(CallError("truncated", "gone"))
    streams(rig, "big")
    assert rig.reply.body.endswith(DONE)
    assert audit(rig) == AuditRecord(DEFERRED, "small", None, "error")


def test_what_takes_too_long_is_given_up() -> None:
    rig = accepted_rig()
    rig.call("big").head(200, SSE)
    rig.pass_time(AUDIT_FOR_S + 1)
    assert rig.call("big").cancelled
    found = audit(rig)
    assert (found.why, found.call and found.call.result) == ("timeout", "cancelled")
    rig = deferred_rig()
    streams(rig, "big", "no")
    rig.pass_time(AUDIT_FOR_S + 1)
    assert rig.call().cancelled
    assert audit(rig).why == "timeout"


def test_what_is_too_long_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = accepted_rig()
    streams(rig, "big", "x" * (COMPARED_BYTES_MAX + 1))
    assert (audit(rig).agreed, audit(rig).why) == (None, "too_long")
    rig = Rig(plan())
    streams(rig, "small", "x" * (COMPARED_BYTES_MAX + 1), logprob=-0.1)
    streams(rig, "big", "x")
    assert audit(rig).why == "too_long"
    monkeypatch.setattr(audits, "ASKED_BYTES_MAX", 10)
    rig = accepted_rig()
    assert audit(rig) == AuditRecord(ACCEPTED, "big", None, "too_long"), "nobody was asked"


def test_beyond_so_many_at_once_it_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audits, "AUDITED_MAX", 0)
    rig = deferred_rig()
    rig.call("big").head(200, SSE)
    rig.call("big").body(event("no"))
    assert rig.call().cancelled, "as a deferred call is that is not audited"
    streams(rig, "big")
    assert audit(rig) == AuditRecord(DEFERRED, "small", None, "busy")
    assert audit(accepted_rig()) == AuditRecord(ACCEPTED, "big", None, "busy")


def test_an_answer_that_nothing_is_compared_with_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    monkeypatch.setattr(audits.SaidReader, "feed", lambda reader, data: read.append(data))
    accepted_rig(n=2)
    with monkeypatch.context() as full:
        full.setattr(audits, "AUDITED_MAX", 0)
        accepted_rig()
    assert read == [], "every chunk of it would be parsed for nothing, and just when there is most to do"
    accepted_rig()
    assert b"yes" in b"".join(read)


def test_several_choices_are_not_compared() -> None:
    rig = Rig(plan(), stream=False, n=2)
    rig.call().reply(200, JSON, whole("yes", -0.1))
    assert audit(rig) == AuditRecord(ACCEPTED, "big", None, "not_comparable")


def test_what_cannot_be_compared_as_the_policy_says() -> None:
    rig = accepted_rig(agree="json_fields")
    streams(rig, "big", "yes sir")
    found = audit(rig)
    assert (found.agreed, found.why) == (None, "not_comparable")
    assert found.call is not None


@pytest.mark.parametrize("deferred", [False, True])
def test_a_client_that_leaves_takes_the_audit_with_it(deferred: bool) -> None:
    rig = deferred_rig() if deferred else Rig(plan())
    name = "big" if deferred else "small"
    rig.call(name).head(200, SSE)
    rig.call(name).body(event("yes") if deferred else token("yes", -0.1))
    rig.reply.leave()
    assert rig.record.code == 499
    assert (audit(rig).agreed, audit(rig).why) == (None, "not_comparable")
    assert len(rig.calls) == 1 + deferred


def test_a_client_that_has_its_answer_may_leave() -> None:
    rig = Rig(plan())
    rig.call().head(200, SSE)
    rig.call().body(token("yes", -0.1) + event("", "stop") + DONE)
    rig.reply.leave()
    streams(rig, "big", "yes")
    assert (rig.record.code, audit(rig).agreed) == (200, True)
    rig = deferred_rig()
    rig.call("big").head(200, SSE)
    rig.call("big").body(event("yes") + event("", "stop") + DONE)
    rig.reply.leave()
    streams(rig, "small")
    assert (rig.record.code, audit(rig).agreed) == (200, True)


def test_an_answer_that_breaks_is_not_compared() -> None:
    rig = deferred_rig()
    rig.call("big").head(200, SSE)
    rig.call("big").body(event("no"))
    rig.call("big").fail(CallError("truncated", "gone"))
    assert b"error" in rig.reply.body
    assert rig.call().cancelled
    assert audit(rig).why == "not_comparable"


@pytest.mark.parametrize("when", ["before", "answering", "asking"])
def test_a_worker_that_stops_waits_for_no_audit(when: str) -> None:
    rig = Rig(plan())
    if when == "before":
        rig.audits.stop()
    rig.call().head(200, SSE)
    rig.call().body(token("yes", -0.1))
    if when == "answering":
        rig.audits.stop()
        assert not rig.reply.over
    streams(rig, "small")
    if when == "asking":
        assert rig.records == []
        rig.audits.stop()
        assert rig.call("big").cancelled
    found = audit(rig)
    assert (found.agreed, found.why, found.call is not None) == (None, "stopped", when == "asking")
    assert rig.reply.body == event("yes") + event("", "stop") + DONE
    assert rig.counted("headgate_audits_total", "main", ACCEPTED, "stopped") == 1


def test_a_stopping_worker_cuts_a_deferred_call_and_no_answer() -> None:
    rig = deferred_rig()
    rig.call("big").head(200, SSE)
    rig.call("big").body(event("no"))
    rig.audits.stop()
    assert rig.call().cancelled
    streams(rig, "big")
    assert rig.reply.body.endswith(DONE)
    assert (rig.record.calls[0].result, audit(rig).why) == ("cancelled", "stopped")


def test_an_answer_that_is_cut_off_is_recorded_at_once() -> None:
    rig = Rig(plan())
    rig.call().head(200, SSE)
    rig.call().body(token("yes", -0.1))
    rig.exchange.abandon("the gateway is shutting down")
    assert (rig.record.code, audit(rig).why) == (503, "not_comparable")


@pytest.mark.parametrize("broken", ["agree", "Order", "SaidReader"])
def test_a_bug_in_an_audit_costs_the_audit_and_nothing_else(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*args: Any, **named: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(audits, broken, breaks)
    rig = accepted_rig()
    if rig.upstreams["big"].calls:
        streams(rig, "big", "yes sir")
    assert rig.reply.body == event("yes") + event(" sir") + event("", "stop") + DONE
    assert (rig.record.code, [each.agreed for each in rig.record.audits]) == (200, [] if broken == "SaidReader" else [None])


WHO = st.sampled_from(["small", "big", "world"])
WHAT = st.sampled_from(["head", "sure", "unsure", "stop", "end", "fail", "odd", "leave", "stop all", "wait"])
STEPS = st.lists(st.tuples(WHO, WHAT), max_size=16)


@settings(max_examples=400, deadline=None)
@given(STEPS, st.booleans(), st.sampled_from([(100, 100), (100, 0), (0, 100)]))
def test_whatever_happens_there_is_one_record_and_the_answer_is_the_same(
    steps: list[tuple[str, str]], serve_held: bool, percents: tuple[float, float]
) -> None:
    """As without audits, byte for byte, up to the end of the answer."""
    audited = Rig(plan(serve_held=serve_held, accepted=percents[0], deferred=percents[1]))
    plain = Rig(plan(serve_held=serve_held, accepted=0, deferred=0))
    for who, what in steps:
        answering = not plain.reply.over
        for rig in (audited, plain):
            _step(rig, who, what)
        if answering:
            assert audited.reply.body == plain.reply.body
    for rig in (audited, plain):
        if not rig.reply.over:
            rig.reply.leave()
        rig.pass_time(AUDIT_FOR_S + 1)
    assert (audited.record.code, audited.record.backend, audited.record.reason) == (
        plain.record.code,
        plain.record.backend,
        plain.record.reason,
    )
    assert plain.record.audits == ()
    for found in audited.record.audits:
        assert (found.agreed is None) == bool(found.why)
    if audited.record.audits and not any(what in ("leave", "stop all") for _, what in steps):
        assert percents[found.purpose == DEFERRED]


def _step(rig: Rig, who: str, what: str) -> None:
    if who == "world":
        if what == "leave" and not rig.reply.over:
            rig.reply.leave()
        elif what == "stop all":
            rig.audits.stop()
        elif what == "wait":
            rig.pass_time(1)
        return
    if not rig.upstreams[who].calls or rig.call(who).over:
        return
    call = rig.call(who)
    if what == "fail":
        call.fail(CONNECT)
    elif what == "head" and not call.status:
        call.head(200, SSE)
    elif call.status and what == "end":
        call.end()
    elif call.status and what == "odd":
        call.body(b"data: {\n\n")
    elif call.status and what in ("sure", "unsure"):
        logprob = -0.1 if what == "sure" else -2.0
        call.body(token("yes", logprob) if who == "small" else event("yes"))
    elif call.status and what == "stop":
        call.body(event("", "stop") + DONE)
