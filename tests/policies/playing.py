"""Drives a rule as the executor will, with outcomes made up by the test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from policies import scores
from policies.plan import Answer, Assess, Assessment, Call, CallError, Features, Outcome, Plan, Race, Refuse, Result, Rule, Verb
from policies.scores import UNAVAILABLE, Scores

FEATURES = Features("x-1", "chat", "chat")
REFUSED = CallError("connect", "refused")
SURE, UNSURE = scores.score([-0.01] * 24), scores.score([-2.5] * 24)
INSIDE, OUTSIDE = Assessment("ok", 1.0, -9.0, True), Assessment("ok", 9.0, -1.0, False)
NO_TEXT = Assessment("unavailable")

Said = CallError | Scores | None
"""What a backend comes to: a failure, scores, or a reply without any."""


class Played(NamedTuple):
    """What a rule asked for, and what it came to."""

    verbs: list[Verb]
    outcomes: list[Outcome]
    verdict: Answer | Refuse

    @property
    def backends(self) -> list[str]:
        return [verb.backend for verb in self.calls]

    @property
    def calls(self) -> list[Call]:
        """Every call, those of races too."""
        return [call for verb in self.verbs if not isinstance(verb, Assess) for call in (verb.calls if isinstance(verb, Race) else (verb,))]

    @property
    def answer(self) -> Answer:
        assert isinstance(self.verdict, Answer), self.verdict
        return self.verdict


def play(
    rule: Rule | Plan,
    said: Mapping[str, Said] | None = None,
    *,
    features: Features = FEATURES,
    assessment: Assessment = INSIDE,
    hedge_wins: bool = False,
) -> Played:
    """`said`: by backend; one that is not named answers, with `UNAVAILABLE` where evidence was asked for."""
    plan: Any = rule.decide(features) if hasattr(rule, "decide") else rule
    verbs: list[Verb] = []
    outcomes: list[Outcome] = []
    number = 0
    result: Result | None = None
    try:
        while True:
            verb = plan.send(result)
            verbs.append(verb)
            if isinstance(verb, Assess):
                result = assessment
                continue
            calls = verb.calls if isinstance(verb, Race) else (verb,)
            place = len(calls) - 1 if hedge_wins else 0
            result = _outcome(calls[place], number + place, (said or {}).get(calls[place].backend), place)
            number += place + 1
            outcomes.append(result)
    except StopIteration as ended:
        return Played(verbs, outcomes, ended.value)


def _outcome(call: Call, number: int, said: Said, place: int) -> Outcome:
    found = said if isinstance(said, Scores) else UNAVAILABLE
    error = said if isinstance(said, CallError) else None
    return Outcome(number, call.backend, error, scores=found if call.evidence and error is None else None, place=place, sent=place + 1)
