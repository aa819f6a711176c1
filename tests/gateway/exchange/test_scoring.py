"""A guard whose detector answers later, from another process: whatever happens meanwhile, there is one answer and one record."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.exchange.memory import RouteMemory
from policies.detector import UNANSWERED, UNAVAILABLE, CompiledDetector
from policies.guard import Guard
from policies.plan import Assessment, CallError, Features
from policies.schema import Route
from policies.schema_rules import Detector
from policies.schema_rules import Guard as GuardOf
from tests.gateway.exchange.rig import CONNECT, DONE, SSE, Rig, event
from tests.gateway.exchange.scoring import Process
from tests.gateway.exchange.test_cascade import cascade, token
from tests.policies.ood.tiny import slow_artifact

FEATURES = Features("x-1", "chat", "chat")
DETECTOR = CompiledDetector(Detector("d", "d.npz"), slow_artifact())
INSIDE, OUTSIDE = Assessment("ok", 1.0, -2.0, True), Assessment("ok", 9.0, -1.0, False)


def guarded(process: Process | None, when_ood: str = "to_last", when_unscored: str = "serve", text: str = "hello", **more: Any) -> Rig:
    memory = RouteMemory(Route("main", (), guard=GuardOf("d", when_ood="flag")), {"d": DETECTOR}, None)
    plan = Guard("d", cascade(), when_ood, when_unscored).decide(FEATURES)  # type: ignore[arg-type]
    return Rig(plan, memory=memory, scoring=process, messages=[{"role": "user", "content": text}], **more)


def ood(rig: Rig) -> str:
    assert rig.record.findings is not None
    return rig.record.findings.ood


@pytest.mark.parametrize(
    ("found", "backend", "said"), [(INSIDE, "small", "false"), (OUTSIDE, "big", "true"), (UNANSWERED, "small", "unscored")]
)
def test_the_plan_goes_on_once_the_detector_has_answered(found: Assessment, backend: str, said: str) -> None:
    process = Process()
    rig = guarded(process, text="please cancel my parcel")
    (asked,) = process.questions
    assert (asked.text, asked.until) == ("please cancel my parcel", rig.exchange.order.deadline)
    assert rig.calls == [], "nobody is asked before"
    rig.pass_time(0.1)
    asked.take(found)
    (call,) = rig.calls
    assert call is rig.call(backend)
    call.head(200, SSE)
    call.body(token("a", -0.1) * 3 + event("", "stop") + DONE)
    call.end()
    assert (rig.record.code, rig.record.backend, ood(rig)) == (200, backend, said)
    assert rig.reply.headers["x-headgate-ood"] == said
    assert rig.record.overhead >= 0.1, "the wait is the gateway's own time"
    assert not asked.forgotten


@pytest.mark.parametrize("process", [None, Process(away=True)])
def test_one_that_cannot_be_asked_is_unscored_at_once(process: Process | None) -> None:
    rig = guarded(process, when_unscored="refuse")
    assert (rig.reply.status, rig.reply.error["code"]) == (503, "not_scored")
    assert ood(rig) == "unscored"


def test_without_a_text_nobody_is_asked() -> None:
    process = Process()
    rig = guarded(process, when_unscored="refuse", text="  ")
    assert (rig.reply.status, rig.reply.error["code"], process.questions) == (422, "not_scored", [])


def test_a_client_that_leaves_meanwhile_is_forgotten() -> None:
    process = Process()
    rig = guarded(process)
    rig.reply.leave()
    (asked,) = process.questions
    assert asked.forgotten
    assert (rig.record.code, rig.record.calls) == (499, ())
    asked.take(OUTSIDE)  # too late: it was on its way
    assert len(rig.records) == 1
    assert rig.calls == []


def test_a_worker_that_stops_meanwhile_says_so() -> None:
    process = Process()
    rig = guarded(process)
    rig.exchange.abandon("the gateway is shutting down")
    assert process.questions[0].forgotten
    assert (rig.reply.status, rig.reply.error["code"]) == (503, "shutting_down")
    assert rig.record.calls == ()


def test_comments_keep_the_connection_meanwhile() -> None:
    process = Process()
    rig = guarded(process, keep_alive_after=1.0)
    rig.pass_time(1.5)
    assert rig.reply.body == b": keep-alive\n\n"
    process.questions[0].take(OUTSIDE)
    rig.call("big").reply(200, SSE, event("yes"), event("", "stop"), DONE)
    assert rig.reply.body.endswith(event("yes") + event("", "stop") + DONE)
    assert ood(rig) == "true"


def test_a_policy_that_fails_on_the_answer_is_an_error_and_no_exception() -> None:
    process = Process()
    rig = guarded(process)
    process.questions[0].take(None)  # type: ignore[arg-type]
    assert (rig.reply.status, rig.reply.error["code"]) == (500, "policy_error")
    assert rig.record.calls == ()


STEPS = st.lists(st.sampled_from(["inside", "outside", "none", "wait", "leave", "abandon", "token", "fail", "end"]), max_size=8)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.sampled_from(["to_last", "flag", "refuse"]), st.sampled_from(["serve", "to_last", "refuse"]))
def test_whatever_happens_there_is_one_answer_and_one_record(steps: list[str], when_ood: str, when_unscored: str) -> None:
    process = Process()
    rig = guarded(process, when_ood, when_unscored)
    (asked,) = process.questions
    answers = {"inside": INSIDE, "outside": OUTSIDE, "none": UNAVAILABLE}
    answered = False
    headed: set[int] = set()
    for step in steps:
        if step in answers and not answered:
            answered = True
            asked.take(answers[step])
        elif step == "wait":
            rig.pass_time(0.3)
        elif step == "leave" and not rig.reply.over:
            rig.reply.leave()
        elif step == "abandon":
            rig.exchange.abandon("stop")
        elif rig.calls and not rig.calls[-1].over:
            call = rig.calls[-1]
            if step == "fail":
                call.fail(CallError("truncated", "gone") if id(call) in headed else CONNECT)
                continue
            if id(call) not in headed:
                headed.add(id(call))
                call.head(200, SSE)
            if step == "token":
                call.body(token("a", -0.1) * 3)
            elif step == "end" and not call.over:
                call.body(event("", "stop") + DONE)
                call.end()
        assert answered or rig.calls == []
    if not rig.reply.over:
        rig.reply.leave()
    assert rig.record.code in (200, 422, 499, 502, 503, 504)
    assert asked.forgotten or answered
    assert len(rig.records) == 1
