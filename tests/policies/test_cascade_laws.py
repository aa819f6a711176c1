"""Laws that every guard, cascade and hedge keeps, whatever comes of its calls."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from policies.cascade import Cascade, CompiledAudit, CompiledStage
from policies.deferral import OneScore
from policies.failover import Failover
from policies.guard import Guard
from policies.hedge import Hedge
from policies.plan import (
    CALLS_MAX,
    HOLD_ALL,
    Answer,
    Assess,
    Assessment,
    Call,
    CallError,
    Evidence,
    Features,
    Mirror,
    Outcome,
    Race,
    Refuse,
    RouteState,
    Rule,
)
from policies.schema_rules import Hedge as HedgeSchema
from policies.scores import UNAVAILABLE, Scores
from tests.policies.playing import INSIDE, NO_TEXT, OUTSIDE, Played, play

NAMES = ("a", "b", "c", "d", "e")
LAW = settings(max_examples=250, deadline=None)
ERRORS = st.sampled_from(
    [
        CallError("connect", "refused"),
        CallError("status", "bad", 400, request_at_fault=True),
        CallError("status", "full", 503),
        CallError("truncated", "cut"),
        CallError("deadline", "late"),
        CallError("cancelled", "left"),
    ]
)
STATUSES = st.sampled_from(["ok", "partial", "truncated"])
SCORES = st.builds(Scores, STATUSES, st.just(4), st.none() | st.floats(-10, 0)) | st.just(UNAVAILABLE)
SAID = st.dictionaries(st.sampled_from(NAMES), ERRORS | SCORES | st.none())
ASSESSMENTS = st.sampled_from([INSIDE, OUTSIDE, NO_TEXT])
STATES = st.builds(RouteState, st.booleans(), st.integers(0, 3), st.booleans())


def features() -> st.SearchStrategy[Features]:
    return st.builds(
        lambda number, state: Features(f"x-{number}", "chat", "chat", routes={"r": state} if state else {}),
        st.integers(0, 50),
        st.none() | STATES,
    )


@st.composite
def cascades(draw: st.DrawFn, hedged: bool = False) -> Cascade:
    names = draw(st.permutations(NAMES))
    count = draw(st.integers(1, 3))
    hedge = Hedge(HedgeSchema("p95"), frozenset(names[:2])) if hedged else None
    stages = []
    for name in names[:count]:
        call = Call(name, HOLD_ALL, Evidence())
        verb = hedge.of_stage(call) if hedge else call
        condition = draw(st.none() | st.builds(OneScore, st.just("mean_logprob"), st.floats(-9, 0)))
        stages.append(CompiledStage(name, verb, condition, draw(st.booleans())))
    last = Failover(tuple(names[count : count + draw(st.integers(1, 2))]), hedge)
    percent = st.sampled_from([0.0, 50.0, 100.0])
    return Cascade(
        "r",
        tuple(stages),
        last,
        serve_held=draw(st.booleans()),
        limit=draw(st.sampled_from([None, "serve", "refuse"])),
        audit=draw(st.none() | st.builds(CompiledAudit, percent, percent, st.just("exact"))),
    )


@LAW
@given(cascades(), SAID, features())
def test_no_backend_is_called_twice_and_the_calls_are_bounded(rule: Cascade, said: Any, known: Features) -> None:
    found = play(rule, said, features=known)
    assert len(found.calls) == len(set(found.backends)) <= CALLS_MAX
    assert set(found.backends) <= set(rule.backends())


@LAW
@given(cascades(hedged=True), SAID, features(), st.booleans())
def test_with_hedges_they_are_bounded_too(rule: Cascade, said: Any, known: Features, wins: bool) -> None:
    found = play(rule, said, features=known, hedge_wins=wins)
    assert len(found.calls) <= CALLS_MAX
    for verb in found.verbs:
        if isinstance(verb, Race):
            assert len({call.backend for call in verb.calls}) == 1 or not verb.other_replica


@LAW
@given(cascades(), SAID, features())
def test_only_an_outcome_that_came_is_answered_and_a_deferred_one_only_as_low_confidence(rule: Cascade, said: Any, known: Features) -> None:
    found = play(rule, said, features=known)
    if isinstance(found.verdict, Refuse):
        assert found.verdict.code == "defer_limit"
        return
    answer = found.verdict
    assert answer.outcome in found.outcomes
    deferred = [judgement.call for judgement in answer.judgements if judgement.deferred]
    limited = [judgement.call for judgement in answer.judgements if judgement.by == "defer_limit"]
    if answer.outcome.error is None:
        assert answer.low_confidence is (answer.outcome.call in (*deferred, *limited))


@LAW
@given(cascades(), SAID, features())
def test_what_a_stage_accepted_is_answered_and_nobody_is_asked_after_it(rule: Cascade, said: Any, known: Features) -> None:
    found = play(rule, said, features=known)
    accepted = [judgement for judgement in found.verdict.judgements if not judgement.deferred]
    assert len(accepted) <= 1
    if accepted and isinstance(found.verdict, Answer):
        assert found.verdict.outcome.call == accepted[0].call == len(found.outcomes) - 1


@LAW
@given(cascades(), SAID, features())
def test_the_route_answers_well_wherever_the_last_stage_would(rule: Cascade, said: Any, known: Features) -> None:
    """An error of a stage is never one of the route, unless the time is up."""
    stages = [name for name in rule.backends() if name not in rule.last.backends()]
    over = any(isinstance(error := said.get(name), CallError) and error.kind in ("deadline", "cancelled") for name in stages)
    well = any(not isinstance(said.get(name), CallError) for name in rule.last.backends()[:1])
    found = play(rule, said, features=known)
    if well and not over and isinstance(found.verdict, Answer):
        assert found.verdict.outcome.error is None


@LAW
@given(cascades(), SAID, features())
def test_a_kept_call_is_one_that_may_still_be_answered_or_audited(rule: Cascade, said: Any, known: Features) -> None:
    found = play(rule, said, features=known)
    kept = {number for call in found.calls for number in call.keep}
    assert all(found.outcomes[number].error is None for number in kept)
    mirrors: tuple[Mirror, ...] = found.verdict.mirrors if isinstance(found.verdict, Answer) else ()
    finishing = {mirror.call for mirror in mirrors if mirror.purpose == "audit_deferred"}
    assert finishing <= kept
    if isinstance(found.verdict, Answer):
        assert found.verdict.outcome.call not in finishing
        if found.verdict.low_confidence and found.verdict.outcome.call < len(found.outcomes) - 1:
            assert found.verdict.outcome.call in found.calls[-1].keep, "what is served was not cancelled"


@LAW
@given(cascades(), SAID, features(), ASSESSMENTS)
def test_a_flag_never_changes_who_serves(rule: Cascade, said: Any, known: Features, assessment: Assessment) -> None:
    plain = play(rule, said, features=known)
    flagged = play(Guard("d", rule, "flag"), said, features=known, assessment=assessment)
    assert flagged.verbs == [Assess("d"), *plain.verbs]
    assert replace(flagged.verdict, ood=None, assessment=None) == plain.verdict


@LAW
@given(cascades(), SAID, features(), ASSESSMENTS, st.sampled_from(["serve", "to_last", "refuse"]))
def test_a_guard_says_what_it_found_and_asks_no_stage_where_it_goes_to_the_last(
    rule: Cascade, said: Any, known: Features, assessment: Assessment, unscored: Any
) -> None:
    found = play(Guard("d", rule, "to_last", unscored), said, features=known, assessment=assessment)
    assert found.verdict.ood == {True: "false", False: "true", None: "unscored"}[assessment.in_distribution]
    assert found.verdict.assessment == assessment
    if assessment == OUTSIDE or (assessment == NO_TEXT and unscored == "to_last"):
        assert set(found.backends) <= set(rule.last.backends())


@LAW
@given(cascades(), SAID, features())
def test_a_plan_is_the_same_each_time_it_is_made(rule: Cascade, said: Any, known: Features) -> None:
    assert play(rule, said, features=known) == play(rule, said, features=known)


def test_the_driver_of_these_tests_refuses_a_rule_that_does_not_end() -> None:
    class Endless:
        def decide(self, features: Features) -> Any:
            for _ in range(CALLS_MAX + 1):
                yield Call("a")
            return Answer(Outcome(0, "a"))

        def backends(self) -> tuple[str, ...]:
            return ("a",)

    rule: Rule = Endless()
    found: Played = play(rule)
    assert len(found.calls) > CALLS_MAX, "it is driven on, so that a law could see it"
