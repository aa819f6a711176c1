"""A route of the policy file to the rule that decides its requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from policies import schema_rules
from policies.cascade import Cascade, CompiledAudit, CompiledStage
from policies.deferral import compile_condition, evidence_for
from policies.failover import Failover, Single
from policies.guard import Guard
from policies.hedge import Hedge
from policies.labels import CompiledSegment
from policies.plan import HOLD_ALL, HOLD_NONE, Call, Hold, Rule
from policies.schema import Policy, Route
from policies.schema_rules import DeferWhen, Stage


def compile_rule(route: Route, policy: Policy, files: Mapping[str, bytes]) -> Rule:
    """What decides the requests of a route. `files`: what the policy's files hold. Raises ValueError, KeyError or `CalibrationError`
    for a policy that the checks would not have let pass."""
    segment = the_segment(route, policy)
    rule = _answerer(route, policy, files, segment)
    guard = route.guard
    return rule if guard is None else Guard(guard.detector, rule, guard.when_ood, guard.when_unscored, segment)


def the_segment(route: Route, policy: Policy) -> CompiledSegment | None:
    """The one segment of a route, by which detectors and calibrations may be cut; None where it has none or several."""
    named = [segment for segment in policy.segments if segment.name in route.segments]
    return CompiledSegment(named[0]) if len(named) == 1 else None


def named_files(policy: Policy) -> frozenset[str]:
    """The paths of the files that compiling needs."""
    detectors = {detector.artifact for detector in policy.detectors}
    rules = [stage.defer_when for route in policy.routes if route.cascade for stage in route.cascade.stages if stage.defer_when]
    learned = {each.calibration for rule in rules for each in conditions(rule) if each.calibration is not None}
    return frozenset(detectors | learned)


def conditions(when: DeferWhen) -> Iterator[DeferWhen]:
    """The deferral rules of a tree that have no rules within them."""
    if not when.any and not when.all:
        yield when
    for each in (*when.any, *when.all):
        yield from conditions(each)


def last_backends(cascade: schema_rules.Cascade) -> tuple[str, ...]:
    """The backends of the last stage, in order."""
    return (cascade.last,) if isinstance(cascade.last, str) else cascade.last.failover


def replicated(policy: Policy) -> frozenset[str]:
    """The backends with more than one replica."""
    return frozenset(backend.name for backend in policy.backends if len(backend.replicas) > 1)


def hedged_calls(called: Sequence[str], hedge: schema_rules.Hedge, policy: Policy) -> int:
    """How many calls a hedge can add to those of a route."""
    if hedge.to == schema_rules.TO_REPLICA:
        return len(replicated(policy).intersection(called))
    return int(hedge.to not in called)


def compile_hold(hold: schema_rules.HoldFor | str) -> Hold:
    """As the executor takes it."""
    if isinstance(hold, str):
        return HOLD_ALL if hold == "all" else HOLD_NONE
    return Hold(hold.tokens, round(hold.for_ * 1000) if hold.for_ is not None else 0)


def _answerer(route: Route, policy: Policy, files: Mapping[str, bytes], segment: CompiledSegment | None) -> Rule:
    hedge = Hedge(route.hedge, replicated(policy)) if route.hedge is not None else None
    if route.cascade is not None:
        return _cascade(route.name, route.cascade, policy, files, hedge, segment)
    if route.backend is not None:
        return Single(route.backend) if hedge is None else Failover((route.backend,), hedge)
    return Failover(route.failover, hedge)


def _cascade(
    route: str,
    cascade: schema_rules.Cascade,
    policy: Policy,
    files: Mapping[str, bytes],
    hedge: Hedge | None,
    segment: CompiledSegment | None,
) -> Cascade:
    audit = cascade.audit
    return Cascade(
        route,
        tuple(_stage(stage, policy, files, hedge) for stage in cascade.stages),
        Failover(last_backends(cascade), hedge),
        serve_held=cascade.when_last_fails == "serve_held",
        limit=cascade.defer_limit.when_exceeded if cascade.defer_limit is not None else None,
        audit=CompiledAudit(audit.accepted_percent, audit.deferred_percent, audit.agree) if audit is not None else None,
        segment=segment,
    )


def _stage(stage: Stage, policy: Policy, files: Mapping[str, bytes], hedge: Hedge | None) -> CompiledStage:
    backend = next(each for each in policy.backends if each.name == stage.backend)
    if stage.defer_when is None:
        call = Call(stage.backend, compile_hold(stage.hold))
        condition = None
    else:
        condition = compile_condition(stage.defer_when, files)
        call = Call(stage.backend, compile_hold(stage.hold), evidence_for(condition, backend, stage.tokens))
    return CompiledStage(stage.backend, hedge.of_stage(call) if hedge is not None else call, condition, stage.when_unscored == "serve")
