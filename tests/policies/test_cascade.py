"""The cascade: who is asked, what is accepted, why, and what is told of it."""

from typing import Any

import pytest

from policies import scores
from policies.hashing import sample
from policies.plan import (
    HOLD_ALL,
    HOLD_NONE,
    Answer,
    CallError,
    Evidence,
    Features,
    Hold,
    Judgement,
    Mirror,
    Outcome,
    Refuse,
    RouteState,
    Rule,
)
from policies.scores import Scores
from tests.policies.building import backend, policy, snapshot
from tests.policies.playing import FEATURES, REFUSED, SURE, UNSURE, Played, play

RULE: dict[str, Any] = {"score": "mean_logprob", "below": -0.35}
HOLD: dict[str, Any] = {"tokens": 24, "for": "400ms"}


def stage(name: str = "small", **more: Any) -> dict[str, Any]:
    return {"backend": name, "hold": HOLD, "defer_when": RULE} | more


def rule(stages: list[dict[str, Any]] | None = None, *, last: Any = "big", route: dict[str, Any] | None = None, **more: Any) -> Rule:
    """The rule of the one route, from the text on."""
    backends = [backend(name, evidence="logprobs") for name in ("small", "mid", "big", "huge")]
    backends[1] |= {"evidence": "logits"}
    cascade = {"stages": stages or [stage()], "last": last} | more
    values = policy(backends=backends, routes=[{"name": "chat", "matches": [{"models": ["chat"]}], "cascade": cascade} | (route or {})])
    return snapshot(values).decide(FEATURES).route.rule  # type: ignore[union-attr]


def asked(rule: Rule, **said: Any) -> Played:
    return play(rule, said)


@pytest.mark.key("routes[].cascade.stages[].backend")
@pytest.mark.key("routes[].cascade.last")
def test_a_sure_answer_is_accepted_and_an_unsure_one_deferred() -> None:
    found = asked(rule(), small=SURE)
    assert found.backends == ["small"]
    judged = Judgement(0, False, "mean_logprob", pytest.approx(-0.01), -0.35, "ok", "small")
    assert found.verdict == Answer(found.outcomes[0], "primary", judgements=(judged,))
    found = asked(rule(), small=UNSURE)
    assert found.backends == ["small", "big"]
    judged = Judgement(0, True, "mean_logprob", pytest.approx(-2.5), -0.35, "ok", "small")
    assert found.verdict == Answer(found.outcomes[1], "low_confidence", judgements=(judged,))
    assert rule().backends() == ("small", "big")


def test_any_number_of_stages_is_tried_in_turn() -> None:
    three = rule([stage("small"), stage("huge")], last="big")
    assert asked(three, small=UNSURE, huge=SURE).backends == ["small", "huge"]
    found = asked(three, small=UNSURE, huge=UNSURE)
    assert found.backends == ["small", "huge", "big"]
    assert [each.backend for each in found.answer.judgements] == ["small", "huge"]
    assert found.answer.outcome.backend == "big"


@pytest.mark.key("routes[].cascade.stages[].hold")
@pytest.mark.key("routes[].cascade.stages[].hold.tokens")
@pytest.mark.key("routes[].cascade.stages[].hold.for")
def test_the_hold_is_asked_of_the_call_and_the_last_stage_is_not_held() -> None:
    found = asked(rule(), small=UNSURE)
    assert [call.hold for call in found.calls] == [Hold(24, 400), HOLD_NONE]
    assert asked(rule([stage(hold={"tokens": 8})])).calls[0].hold == Hold(8, 0)
    assert asked(rule([stage(hold="all")])).calls[0].hold == HOLD_ALL
    assert asked(rule([{"backend": "small", "hold": "none"}])).calls[0].hold == HOLD_NONE


@pytest.mark.key("routes[].cascade.stages[].tokens")
@pytest.mark.key("routes[].cascade.stages[].defer_when.score")
@pytest.mark.key("backends[].evidence")
def test_the_evidence_that_is_asked_for_is_what_the_scores_need() -> None:
    assert asked(rule()).calls[0].evidence == Evidence("content", 0, False)
    margin = rule([stage(tokens="tool_arguments", defer_when={"score": "margin", "below": 1})])
    assert asked(margin).calls[0].evidence == Evidence("tool_arguments", 2, False)
    entropy = rule([stage(tokens="all", defer_when={"any": [RULE, {"score": "entropy", "above": 1}]})])
    assert asked(entropy).calls[0].evidence == Evidence("all", 5, False)
    energy = rule([stage("mid", defer_when={"score": "energy", "above": -12.5})])
    assert asked(energy).calls[0].evidence == Evidence("content", 20, True)
    found = asked(rule([{"backend": "small"}]), small=None)
    assert found.calls[0].evidence is None, "nothing is judged"
    assert found.answer.judgements == (Judgement(0, False, "no_rule", backend="small"),)


@pytest.mark.parametrize(
    "error",
    [
        REFUSED,
        CallError("status", "the prompt is too long", 400, request_at_fault=True, code="context_length_exceeded"),
        CallError("truncated", "cut off during the hold"),
    ],
)
def test_an_error_of_a_stage_is_never_one_of_the_route(error: CallError) -> None:
    found = asked(rule(), small=error)
    assert found.backends == ["small", "big"]
    judged = Judgement(0, True, "error", backend="small")
    assert found.verdict == Answer(found.outcomes[1], "failover", judgements=(judged,))
    both = rule([stage("small"), stage("huge")])
    assert asked(both, small=error, huge=SURE).answer.reason == "failover"
    assert asked(both, small=error, huge=UNSURE).answer.reason == "low_confidence"


@pytest.mark.parametrize("kind", ["deadline", "cancelled"])
def test_where_the_time_is_up_nobody_else_is_asked(kind: Any) -> None:
    error = CallError(kind, "")
    found = asked(rule(), small=error)
    assert (found.backends, found.answer.outcome.error) == (["small"], error)


@pytest.mark.key("routes[].cascade.last.failover")
def test_the_last_stage_may_fail_over() -> None:
    both = rule(last={"failover": ["big", "huge"]})
    assert both.backends() == ("small", "big", "huge")
    found = asked(both, small=UNSURE, big=REFUSED)
    assert (found.backends, found.answer.reason) == (["small", "big", "huge"], "failover")
    assert len(found.answer.judgements) == 1
    assert asked(both, small=UNSURE).answer.reason == "low_confidence"


@pytest.mark.key("routes[].cascade.when_last_fails")
def test_where_the_last_stage_fails_its_error_or_the_held_reply_is_the_answer() -> None:
    found = asked(rule(), small=UNSURE, big=REFUSED)
    assert (found.answer.outcome.error, found.answer.low_confidence, found.answer.reason) == (REFUSED, False, "low_confidence")
    assert asked(rule(), small=REFUSED, big=REFUSED).answer.reason == "failover", "an error has a reason too"
    assert [call.keep for call in found.calls] == [(), ()], "the deferred call is cancelled at once"
    held = rule([stage("small"), stage("huge")], when_last_fails="serve_held")
    found = asked(held, small=UNSURE, huge=UNSURE, big=REFUSED)
    assert found.verdict == Answer(found.outcomes[1], "failover", low_confidence=True, judgements=found.answer.judgements)
    assert [call.keep for call in found.calls] == [(), (0,), (1,)], "only the one that could be served goes on"
    found = asked(held, small=REFUSED, huge=REFUSED, big=REFUSED)
    assert found.answer.outcome == found.outcomes[2], "nothing was held"
    left = CallError("cancelled", "the client left")
    assert asked(held, small=UNSURE, huge=UNSURE, big=left).answer.outcome.error == left


@pytest.mark.key("routes[].cascade.stages[].when_unscored")
@pytest.mark.parametrize("status", ["unavailable", "truncated"])
def test_what_cannot_be_scored_is_served_or_deferred(status: Any) -> None:
    unscored = Scores(status=status, tokens=7, mean_logprob=-9.0 if status == "truncated" else None)
    found = asked(rule(), small=unscored)
    assert found.backends == ["small"]
    assert found.answer.judgements == (Judgement(0, False, "when_unscored", None, -0.35, status, "small"),)
    assert asked(rule([stage(when_unscored="defer")]), small=unscored).backends == ["small", "big"]
    assert asked(rule(), small=None).backends == ["small"], "no evidence came at all"


def test_a_finished_shorter_answer_is_whole_and_partial_evidence_is_evidence() -> None:
    assert asked(rule(), small=scores.score([-3.0] * 2)).backends == ["small", "big"]
    assert asked(rule(), small=Scores("partial", 24, -3.0)).backends == ["small", "big"]


LIMITED = Features("x-1", "chat", "chat", routes={"chat": RouteState(defer_limited=True)})


@pytest.mark.key("routes[].cascade.defer_limit.when_exceeded")
def test_beyond_the_defer_limit_the_held_reply_is_served_or_the_request_refused() -> None:
    limited = rule(defer_limit={"percent": 40})
    assert play(limited, {"small": UNSURE}).backends == ["small", "big"], "it is not exceeded"
    found = play(limited, {"small": UNSURE}, features=LIMITED)
    assert found.backends == ["small"]
    judged = Judgement(0, False, "defer_limit", pytest.approx(-2.5), -0.35, "ok", "small")
    assert found.verdict == Answer(found.outcomes[0], "primary", low_confidence=True, judgements=(judged,))
    assert play(limited, {"small": SURE}, features=LIMITED).answer.low_confidence is False
    refusing = rule(defer_limit={"percent": 40, "when_exceeded": "refuse"})
    verdict = play(refusing, {"small": UNSURE}, features=LIMITED).verdict
    assert isinstance(verdict, Refuse)
    assert (verdict.status, verdict.kind, verdict.code, verdict.judgements) == (503, "server_error", "defer_limit", (judged,))
    assert play(refusing, {"small": SURE}, features=LIMITED).answer.outcome.backend == "small"


def test_a_failure_is_no_deferral_and_the_limit_does_not_make_it_an_error() -> None:
    for when in ("serve", "refuse"):
        limited = rule(defer_limit={"percent": 40, "when_exceeded": when})
        assert play(limited, {"small": REFUSED}, features=LIMITED).answer.outcome.backend == "big"


def exchange(accepted: bool | None = None, deferred: bool | None = None, **more: Any) -> Features:
    """One whose id is sampled so."""
    for number in range(10_000):
        name = f"x-{number}"
        if accepted in (None, sample(name, "chat.audit.accepted", 50)) and deferred in (None, sample(name, "chat.audit.deferred", 50)):
            return Features(name, "chat", "chat", **more)
    raise AssertionError


@pytest.mark.key("routes[].cascade.audit.accepted_percent")
@pytest.mark.key("routes[].cascade.audit.agree")
def test_a_sampled_accepted_reply_is_asked_of_the_last_stage_too() -> None:
    audited = rule(last={"failover": ["big", "huge"]}, audit={"accepted_percent": 50, "agree": "label"})
    answer = play(audited, {"small": SURE}, features=exchange(accepted=True)).answer
    assert answer.mirrors == (Mirror("audit_accepted", "big", 0, "label", ("huge",)),)
    assert play(audited, {"small": SURE}, features=exchange(accepted=False)).answer.mirrors == ()
    assert play(audited, {"small": UNSURE}, features=exchange(accepted=True)).answer.mirrors == ()
    limited = rule(audit={"accepted_percent": 50}, defer_limit={"percent": 40})
    over = exchange(accepted=True, routes=LIMITED.routes)
    assert play(limited, {"small": UNSURE}, features=over).answer.mirrors == (), "it was not accepted, only served"


@pytest.mark.key("routes[].cascade.audit.deferred_percent")
def test_a_sampled_deferred_call_is_let_finish() -> None:
    audited = rule([stage("small"), stage("huge")], audit={"deferred_percent": 50, "agree": "json_fields"})
    found = play(audited, {"small": UNSURE, "huge": UNSURE}, features=exchange(deferred=True))
    assert [call.keep for call in found.calls] == [(), (0,), (0, 1)]
    assert found.answer.mirrors == (
        Mirror("audit_deferred", "small", 0, "json_fields"),
        Mirror("audit_deferred", "huge", 1, "json_fields"),
    )
    found = play(audited, {"small": UNSURE}, features=exchange(deferred=False))
    assert [call.keep for call in found.calls] == [(), ()]
    assert found.answer.mirrors == ()
    failed = play(audited, {"small": UNSURE, "huge": UNSURE, "big": REFUSED}, features=exchange(deferred=True))
    assert failed.answer.mirrors == (), "there is nothing to compare with"


CALIBRATED: dict[str, Any] = {"calibration": "calibrations/support.json"}


@pytest.mark.key("routes[].cascade.stages[].defer_when.calibration")
def test_a_learned_score_decides_by_the_threshold_that_was_certified() -> None:
    learned = rule([stage(defer_when=CALIBRATED)])
    assert asked(learned, small=SURE).answer.judgements[0].by == "calibrated"
    found = asked(learned, small=UNSURE)
    assert found.backends == ["small", "big"]
    judged = found.answer.judgements[0]
    assert (judged.by, judged.bound) == ("calibrated", 0.6)
    assert judged.value is not None
    assert judged.value < 0.6
    assert asked(learned, small=None).answer.judgements[0].by == "when_unscored"


def test_a_disabled_calibration_sends_everything_to_the_last_stage_and_pays_for_nothing_else() -> None:
    disabled = rule([stage(defer_when={"calibration": "calibrations/disabled.json"}), stage("huge")])
    found = asked(disabled, huge=SURE)
    assert found.backends == ["huge"]
    assert found.answer.judgements[0] == Judgement(None, True, "calibration_disabled", backend="small")
    assert found.answer.reason == "low_confidence"


@pytest.mark.key("routes[].cascade.audit.on_violation")
def test_after_a_violation_less_is_accepted_or_nothing() -> None:
    audited = rule([stage(defer_when=CALIBRATED)], audit={"accepted_percent": 1, "on_violation": "tighten"})

    def judged(**state: Any) -> tuple[list[str], str, float | None]:
        found = play(audited, {"small": SURE}, features=Features("x-1", "chat", "chat", routes={"chat": RouteState(**state)}))
        return found.backends, found.answer.judgements[0].by, found.answer.judgements[0].bound

    assert judged() == (["small"], "calibrated", 0.6)
    assert judged(tightened=1) == (["small"], "calibrated", 0.8), "0.6 of all was accepted, and 0.28 is at most half of that"
    assert judged(tightened=2) == (["small"], "calibrated", 0.9)
    assert judged(tightened=3) == (["small", "big"], "calibrated", float("inf"))
    assert judged(tightened=99)[0] == ["small", "big"]
    assert judged(disabled=True) == (["big"], "audit", None)


def test_the_routes_that_have_a_state_are_known() -> None:
    def stateful(**more: Any) -> frozenset[str]:
        cascade = {"stages": [stage(defer_when=CALIBRATED)], "last": "big"} | more
        backends = [backend("small", evidence="logprobs"), backend("big")]
        return snapshot(policy(backends=backends, routes=[{"name": "chat", "matches": [{"models": ["m"]}], "cascade": cascade}])).stateful

    assert stateful() == stateful(audit={"accepted_percent": 1}) == frozenset()
    assert stateful(defer_limit={"percent": 10}) == {"chat"}
    assert stateful(audit={"accepted_percent": 1, "on_violation": "disable"}) == {"chat"}


def test_an_outcome_without_scores_where_evidence_was_asked_is_unscored() -> None:
    plan = rule().decide(FEATURES)
    next(plan)
    with pytest.raises(StopIteration) as ended:
        plan.send(Outcome(0, "small"))
    assert ended.value.value.judgements[0].by == "when_unscored"
