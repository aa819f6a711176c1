"""The check before the call: is the request like those that the fine-tuned model was trained for?"""

from __future__ import annotations

from typing import Literal

from msgspec.structs import replace

from policies.cascade import Cascade
from policies.labels import CompiledSegment
from policies.plan import Answer, Assess, Assessment, Features, Ood, Plan, Refuse, Rule, assess

WhenOod = Literal["to_last", "flag", "refuse"]
WhenUnscored = Literal["serve", "to_last", "refuse"]


class Guard:
    """Wraps any rule; `to_last` needs a cascade."""

    __slots__ = ("_detector", "_rule", "_segment", "_when_ood", "_when_unscored")

    def __init__(
        self,
        detector: str,
        rule: Rule,
        when_ood: WhenOod,
        when_unscored: WhenUnscored = "serve",
        segment: CompiledSegment | None = None,
    ) -> None:
        if "to_last" in (when_ood, when_unscored) and not isinstance(rule, Cascade):
            raise ValueError("to_last needs a cascade")
        self._detector = detector
        self._rule = rule
        self._when_ood = when_ood
        self._when_unscored = when_unscored
        self._segment = segment

    def decide(self, features: Features) -> Plan:
        segment = self._segment.value(features) if self._segment is not None else None
        found = yield from assess(Assess(self._detector, segment))
        ood: Ood = "unscored" if found.in_distribution is None else "false" if found.in_distribution else "true"
        what = self._when_unscored if ood == "unscored" else self._when_ood if ood == "true" else "serve"
        if what == "refuse":
            return _refused(ood, found)
        rule = self._rule
        if isinstance(rule, Cascade):
            if what == "to_last":
                verdict = yield from rule.last.plan()
                assert isinstance(verdict, Answer)
                return replace(verdict, reason="ood" if verdict.reason == "primary" else verdict.reason, ood=ood, assessment=found)
            if rule.informed:
                features = replace(features, assessment=found)
        return replace((yield from rule.decide(features)), ood=ood, assessment=found)

    def backends(self) -> tuple[str, ...]:
        return self._rule.backends()


def _refused(ood: Ood, found: Assessment) -> Refuse:
    if found.unanswered:
        message = "the request could not be checked in time against what this model was trained for, and the policy asks for it"
        return Refuse(503, "server_error", message, "not_scored", ood=ood, assessment=found)
    if ood == "unscored":
        message = "the request has no text that could be checked against what this model was trained for, and the policy asks for one"
        return Refuse(422, "invalid_request_error", message, "not_scored", ood=ood, assessment=found)
    message = "the request is unlike those that this model was trained for, and the policy refuses such requests"
    return Refuse(422, "invalid_request_error", message, "out_of_distribution", ood=ood, assessment=found)
