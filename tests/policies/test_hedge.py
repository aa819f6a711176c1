"""Hedges: which calls become races, and what the winner makes of the answer."""

from typing import Any

import pytest

from policies.plan import CallError, Outcome, Race, Rule
from tests.policies.building import backend, policy, snapshot
from tests.policies.playing import FEATURES, REFUSED, SURE, UNSURE, play

TWO = ["http://a:8000", "http://b:8000"]
CASCADE: dict[str, Any] = {
    "stages": [{"backend": "small", "hold": {"tokens": 8}, "defer_when": {"score": "mean_logprob", "below": -0.35}}],
    "last": {"failover": ["big", "huge"]},
}


def rule(route: dict[str, Any], replicated: tuple[str, ...] = ("small",), **hedge: Any) -> Rule:
    backends = [
        backend(name, evidence="logprobs") | ({"replicas": TWO} if name in replicated else {}) for name in ("small", "big", "huge", "spare")
    ]
    one = {"name": "chat", "matches": [{"models": ["chat"]}], "hedge": {"after": "p95"} | hedge} | route
    return snapshot(policy(backends=backends, routes=[one])).decide(FEATURES).route.rule  # type: ignore[union-attr]


def races(rule: Rule, **said: Any) -> list[str]:
    """Each call that is made where the first fails, with what is beside it."""
    return [
        "+".join(call.backend for call in verb.calls) if isinstance(verb, Race) else verb.backend  # type: ignore[union-attr]
        for verb in play(rule, said).verbs
    ]


@pytest.mark.key("routes[].hedge.after")
@pytest.mark.key("routes[].hedge.budget_percent")
def test_a_race_says_when_and_how_often() -> None:
    (race,) = play(rule({"backend": "small"})).verbs
    assert isinstance(race, Race)
    assert (race.after, race.budget_percent, race.other_replica) == ("p95", 5.0, True)
    (race,) = play(rule({"backend": "small"}, after="1500ms", budget_percent=20, to="big")).verbs
    assert isinstance(race, Race)
    assert (race.after, race.budget_percent, race.other_replica) == (1.5, 20.0, False)


@pytest.mark.key("routes[].hedge.to")
def test_a_hedge_goes_to_a_replica_of_each_backend_that_has_one_or_to_a_backend_beside_the_first() -> None:
    assert races(rule({"backend": "small"})) == ["small+small"]
    assert races(rule({"failover": ["small", "big", "huge"]}, ("small", "huge")), small=REFUSED, big=REFUSED) == [
        "small+small",
        "big",
        "huge+huge",
    ]
    assert races(rule({"backend": "small"}, to="big")) == ["small+big"]
    assert races(rule({"failover": ["small", "big"]}, to="spare"), small=REFUSED) == ["small+spare", "big"]
    assert rule({"backend": "small"}, to="big").backends() == ("small", "big")


def test_in_a_cascade_a_stage_is_hedged_by_its_own_replicas_only() -> None:
    assert races(rule({"cascade": CASCADE}, ("small", "big")), small=UNSURE) == ["small+small", "big+big"]
    assert races(rule({"cascade": CASCADE}, to="spare"), small=UNSURE) == ["small", "big+spare"]
    (race,) = play(rule({"cascade": CASCADE}), {"small": SURE}).verbs
    assert isinstance(race, Race)
    assert race.calls[0] == race.calls[1], "the hedge is held and judged as the first call is"


def test_the_reason_is_hedge_where_the_second_call_won() -> None:
    single = rule({"backend": "small"}, to="big")
    assert play(single).answer.reason == "primary"
    won = play(single, hedge_wins=True)
    assert (won.answer.reason, won.answer.outcome.backend) == ("hedge", "big")
    cascade = rule({"cascade": CASCADE}, ("small",))
    assert play(cascade, {"small": SURE}, hedge_wins=True).answer.reason == "hedge"
    assert play(rule({"cascade": CASCADE}, to="spare"), {"small": UNSURE}, hedge_wins=False).answer.reason == "low_confidence"


def sent(rule: Rule, outcome: Outcome) -> list[str]:
    """Whom the plan asks after a race came to this."""
    plan = rule.decide(FEATURES)
    next(plan)
    asked = []
    try:
        while True:
            verb = plan.send(outcome)
            assert not isinstance(verb, Race)
            asked.append(verb.backend)  # type: ignore[union-attr]
            outcome = Outcome(outcome.call + 1, asked[-1], REFUSED)
    except StopIteration:
        return asked


def test_a_failover_does_not_ask_again_whom_the_race_has_asked() -> None:
    both = rule({"failover": ["small", "big", "huge"]}, to="big")
    assert sent(both, Outcome(1, "small", REFUSED, sent=2)) == ["huge"]
    assert sent(both, Outcome(0, "small", REFUSED, sent=1)) == ["big", "huge"], "the hedge was never sent"
    assert sent(both, Outcome(0, "small", CallError("status", "no", 400, request_at_fault=True), sent=1)) == []


def test_what_is_kept_is_kept_by_every_call_of_a_race() -> None:
    held = rule({"cascade": CASCADE | {"when_last_fails": "serve_held"}}, ("big",))
    found = play(held, {"small": UNSURE})
    race = found.verbs[1]
    assert isinstance(race, Race)
    assert [call.keep for call in race.calls] == [(0,), (0,)]
