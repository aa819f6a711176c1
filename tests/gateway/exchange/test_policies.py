"""Policies that refuse, that break and that never end: one answer and one record of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from typing import Any

import pytest

from policies.plan import CALLS_MAX, Answer, Call, Hold, Outcome, Plan, Refuse, Verdict, call
from tests.gateway.exchange.rig import CONNECT, SSE, Rig, event


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
