"""The checks of a route's `cascade`: its stages, its last stage, its limit and its audit."""

from __future__ import annotations

from collections.abc import Iterator

from policies.check_deferral import check_condition
from policies.findings import Findings
from policies.plan import CALLS_MAX
from policies.rules import conditions, hedged_calls, last_backends
from policies.schema import Route
from policies.schema_rules import Audit, Cascade, Stage

_OF_THE_RULE = ("hold", "tokens", "when_unscored")


def check_cascade(findings: Findings, path: str, route: Route, cascade: Cascade) -> None:
    """What is wrong with the cascade of a route, whose place in the file is `path`."""
    for index, stage in enumerate(cascade.stages):
        _check_stage(findings, f"{path}.stages[{index}]", route, stage)
    _check_backends(findings, path, cascade)
    _check_calls(findings, path, route, cascade)
    ruled = any(stage.defer_when is not None for stage in cascade.stages)
    for name, reason in (("defer_limit", "nothing is ever deferred"), ("when_last_fails", "nothing is ever held")):
        if findings.written(f"{path}.{name}") and not ruled and findings.readable(f"{path}.stages"):
            findings.warning(f"{path}.{name}", f"changes nothing: without a defer_when {reason}")
    if cascade.audit is not None:
        _check_audit(findings, f"{path}.audit", cascade, cascade.audit)


def _check_stage(findings: Findings, path: str, route: Route, stage: Stage) -> None:
    if stage.defer_when is not None:
        if stage.hold == "none" and findings.readable(f"{path}.hold"):
            where = f"{path}.hold" if findings.written(f"{path}.hold") else f"{path}.defer_when"
            findings.error(
                where, "nothing is held, so defer_when can never see its evidence", "write hold: {tokens: 24, for: 400ms}, or hold: all"
            )
        check_condition(findings, f"{path}.defer_when", route, stage, stage.defer_when)
        return
    for name in _OF_THE_RULE:
        if findings.written(f"{path}.{name}") and findings.complete(path) and not (name == "hold" and stage.hold == "none"):
            findings.warning(f"{path}.{name}", "changes nothing: without defer_when every reply is accepted")


def _check_backends(findings: Findings, path: str, cascade: Cascade) -> None:
    """They are there, and none is called twice."""
    seen: dict[str, str] = {}
    for here, name in _placed(path, cascade):
        if not name:
            continue
        findings.refers(here, name, "backends", "backend")
        if name in seen:
            findings.error(
                here,
                f'"{name}" stands in this cascade twice, first on line {findings.line(seen[name])}',
                "a second ask gets no better answer",
            )
        seen.setdefault(name, here)
    if not isinstance(cascade.last, str) and findings.written(f"{path}.last.failover") and len(cascade.last.failover) < 2:
        findings.error(f"{path}.last.failover", "needs at least two backends", "for one, write last: NAME")


def _placed(path: str, cascade: Cascade) -> Iterator[tuple[str, str]]:
    """Every backend of a cascade, with its place."""
    for index, stage in enumerate(cascade.stages):
        yield f"{path}.stages[{index}].backend", stage.backend
    if isinstance(cascade.last, str):
        yield f"{path}.last", cascade.last
        return
    for index, name in enumerate(cascade.last.failover):
        yield f"{path}.last.failover[{index}]", name


def _check_calls(findings: Findings, path: str, route: Route, cascade: Cascade) -> None:
    called = [stage.backend for stage in cascade.stages] + list(last_backends(cascade))
    hedged = hedged_calls(called, route.hedge, findings.policy) if route.hedge is not None else 0
    if len(called) + hedged > CALLS_MAX:
        races = f", {hedged} of them by its hedge" if hedged else ""
        findings.error(path, f"one request could make {len(called) + hedged} calls{races}; at most {CALLS_MAX} may be made")


def _check_audit(findings: Findings, path: str, cascade: Cascade, audit: Audit) -> None:
    if audit.agree == "judge":
        findings.error(f"{path}.agree", "not supported yet", "write exact, label or json_fields")
    if (
        not audit.accepted_percent
        and not audit.deferred_percent
        and findings.complete(path)
        and findings.readable(f"{path}.accepted_percent")
    ):
        findings.warning(path, "audits nothing: accepted_percent and deferred_percent are 0")
    if audit.on_violation == "alert" or not findings.readable(f"{path}.on_violation"):
        return
    rules = [each for stage in cascade.stages if stage.defer_when is not None for each in conditions(stage.defer_when)]
    if not any(rule.calibration is not None for rule in rules) and findings.readable(path.removesuffix(".audit") + ".stages"):
        findings.error(
            f"{path}.on_violation", "there is no promise to violate: no stage defers by a calibration", "write alert, or calibrate a stage"
        )
    elif not audit.accepted_percent and findings.readable(f"{path}.accepted_percent"):
        findings.error(f"{path}.on_violation", "no violation could be seen: accepted_percent is 0")
