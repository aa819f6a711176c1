"""Cheap models first, a strong one where they are not sure.

Each stage is asked in turn. Its held reply is accepted, and then it is the answer, or deferred, and then the next stage is asked;
a call that fails goes to the next stage too, whatever the failure: an error of a cheap model is never one of the route. What the last
stage says is not judged.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec.structs import replace

from policies.deferral import OOD_ENERGY, OOD_SCORE, SEGMENT, Condition, Seen
from policies.failover import Failover, in_time
from policies.hashing import sample
from policies.hedge import kept
from policies.labels import CompiledSegment
from policies.plan import Agreement, Answer, Call, Features, Judgement, Mirror, Outcome, Plan, Race, Reason, Refuse, RouteState, ask
from policies.scores import UNAVAILABLE

NO_STATE = RouteState()


class CompiledStage(msgspec.Struct, frozen=True):
    """One stage, ready to be asked."""

    backend: str
    verb: Call | Race
    condition: Condition | None
    """None: whatever it says is accepted."""
    serve_unscored: bool


class CompiledAudit(msgspec.Struct, frozen=True):
    """How many decisions are checked off the path."""

    accepted_percent: float
    deferred_percent: float
    agree: Agreement


class Cascade:
    """See the module. `limit`: what becomes of a deferral where the route's `defer_limit` is exceeded; None without a limit."""

    __slots__ = ("_audit", "_informed", "_limit", "_route", "_segment", "_serve_held", "_stages", "last")

    def __init__(
        self,
        route: str,
        stages: tuple[CompiledStage, ...],
        last: Failover,
        *,
        serve_held: bool = False,
        limit: Literal["serve", "refuse"] | None = None,
        audit: CompiledAudit | None = None,
        segment: CompiledSegment | None = None,
    ) -> None:
        if not stages:
            raise ValueError("a cascade needs a stage")
        self._route = route
        self._stages = stages
        self.last = last
        """What decides once no stage is left."""
        self._serve_held = serve_held
        self._limit = limit
        self._audit = audit
        used = frozenset().union(*(stage.condition.features() for stage in stages if stage.condition is not None))
        self._segment = segment if SEGMENT in used else None
        self._informed = not used.isdisjoint((OOD_SCORE, OOD_ENERGY))

    @property
    def informed(self) -> bool:
        """It goes by what the guard found."""
        return self._informed

    def decide(self, features: Features) -> Plan:
        state = features.routes.get(self._route, NO_STATE)
        segment = self._segment.value(features) if self._segment is not None else None
        reason: Reason = "primary"
        judgements: list[Judgement] = []
        held: Outcome | None = None
        audited: list[Outcome] = []
        for stage in self._stages:
            if state.disabled or (stage.condition is not None and stage.condition.always()):
                # Nothing that it could say would be served: it is not paid for.
                judgements.append(Judgement(None, True, "audit" if state.disabled else "calibration_disabled", backend=stage.backend))
                reason = "low_confidence"
                continue
            outcome = yield from ask(kept(stage.verb, self._keep(held, audited)))
            if outcome.error is not None:
                judgements.append(Judgement(outcome.call, True, "error", backend=outcome.backend))
                if not in_time(outcome.error):
                    return self._failed(Answer(outcome, reason), held, judgements)
                reason = "failover"
                continue
            found = Seen(outcome.scores or UNAVAILABLE, segment, features.assessment, state.tightened)
            judgement = self._judge(stage, outcome, found, state.defer_limited)
            judgements.append(judgement)
            if judgement.by == "defer_limit" and self._limit == "refuse":
                return _over_limit(tuple(judgements))
            if not judgement.deferred:
                why: Reason = "hedge" if outcome.place and reason == "primary" else reason
                limited = judgement.by == "defer_limit"
                return Answer(
                    outcome,
                    why,
                    low_confidence=limited,
                    judgements=tuple(judgements),
                    mirrors=self._mirrors(features, outcome, audited, accepted=not limited),
                )
            reason = "low_confidence"
            held = outcome
            if self._audit is not None and sample(features.exchange_id, f"{self._route}.audit.deferred", self._audit.deferred_percent):
                audited.append(outcome)
        verdict = yield from self.last.plan(self._keep(held, audited))
        assert isinstance(verdict, Answer)
        verdict = replace(verdict, reason=reason if verdict.reason == "primary" else verdict.reason)
        if verdict.outcome.error is not None:
            return self._failed(verdict, held, judgements)
        return replace(
            verdict,
            judgements=tuple(judgements),
            mirrors=self._mirrors(features, verdict.outcome, audited, accepted=False),
        )

    def backends(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*(stage.backend for stage in self._stages), *self.last.backends())))

    def _keep(self, held: Outcome | None, audited: list[Outcome]) -> tuple[int, ...]:
        kept_calls = [outcome.call for outcome in audited]
        if self._serve_held and held is not None and held.call not in kept_calls:
            kept_calls.append(held.call)
        return tuple(kept_calls)

    def _judge(self, stage: CompiledStage, outcome: Outcome, seen: Seen, limited: bool) -> Judgement:
        status = seen.scores.status
        if stage.condition is None:
            return Judgement(outcome.call, False, "no_rule", status=status, backend=outcome.backend)
        found = stage.condition.judge(seen)
        deferred, by = found.deferred, found.by
        if deferred is None:
            deferred, by = not stage.serve_unscored, "when_unscored"
        if deferred and limited and self._limit is not None:
            deferred, by = False, "defer_limit"
        return Judgement(outcome.call, deferred, by, found.value, found.bound, status, outcome.backend)

    def _failed(self, verdict: Answer, held: Outcome | None, judgements: list[Judgement]) -> Answer:
        """Nobody is left to ask."""
        error = verdict.outcome.error
        if self._serve_held and held is not None and error is not None and error.kind != "cancelled":
            return Answer(held, "failover", low_confidence=True, judgements=tuple(judgements))
        return replace(verdict, judgements=tuple(judgements))

    def _mirrors(self, features: Features, answered: Outcome, audited: list[Outcome], *, accepted: bool) -> tuple[Mirror, ...]:
        audit = self._audit
        if audit is None:
            return ()
        mirrors = [Mirror("audit_deferred", outcome.backend, outcome.call, audit.agree) for outcome in audited]
        if accepted and sample(features.exchange_id, f"{self._route}.audit.accepted", audit.accepted_percent):
            first, *others = self.last.backends()
            mirrors.append(Mirror("audit_accepted", first, answered.call, audit.agree, tuple(others)))
        return tuple(mirrors)


def _over_limit(judgements: tuple[Judgement, ...]) -> Refuse:
    return Refuse(
        503,
        "server_error",
        "the answer was not good enough, and too many of this route's requests go to its last stage already: try again later",
        "defer_limit",
        judgements=judgements,
    )
