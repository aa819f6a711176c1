"""The checks of `detectors`, and of a route's `guard` and `hedge`."""

from __future__ import annotations

from collections.abc import Sequence

from policies.detector import DETECTORS_MAX, SLOW_MAX, DetectorError, open_artifact, threshold_of
from policies.errors import nearest, shown
from policies.findings import Findings
from policies.plan import CALLS_MAX
from policies.rules import hedged_calls, last_backends, replicated
from policies.schema import Route
from policies.schema_rules import TO_REPLICA, Detector, Guard, Hedge


def check_detectors(findings: Findings, detectors: Sequence[Detector]) -> None:
    """What is wrong with each, and with all of them together."""
    slow: set[str] = set()
    artifacts = list(dict.fromkeys(detector.artifact for detector in detectors))
    if len(artifacts) > DETECTORS_MAX:
        findings.error("detectors", f"{len(artifacts)} artifacts, more than {DETECTORS_MAX}", "let routes share one")
    for index, detector in enumerate(detectors):
        path = f"detectors[{index}]"
        if _check_detector(findings, path, detector) and detector.artifact not in slow:
            slow.add(detector.artifact)
            if len(slow) > SLOW_MAX:
                findings.error(
                    f"{path}.artifact",
                    f"more than {SLOW_MAX} detectors need a sentence encoder",
                    "fit it with --pretrained table, or let routes share one",
                )


def _check_detector(findings: Findings, path: str, detector: Detector) -> bool:
    """What is wrong with one, whose place in the file is `path`; whether it is slow."""
    threshold = f"{path}.threshold"
    given = [name for name in ("keep_percent", "score") if findings.written(f"{threshold}.{name}")]
    if len(given) > 1:
        findings.error(threshold, "has both keep_percent and score", "keep one")
    elif not given and findings.written(threshold) and findings.complete(threshold):
        findings.error(threshold, "needs keep_percent or score")
    data = findings.files.get(detector.artifact)
    if data is None or not findings.readable(f"{path}.artifact"):
        return False
    try:
        fitted = open_artifact(data)
    except DetectorError as error:
        findings.error(f"{path}.artifact", f"{detector.artifact}: {error}", "`headgate fit ood` makes a detector")
        return False
    made = fitted.facts.text
    if detector.text is not None and detector.text != made:
        findings.error(
            f"{path}.text",
            f"the artifact was fitted on {made}, not {detector.text}",
            f"write {made}, or fit again with --text {detector.text}",
        )
    try:
        for segment in (None, *fitted.calibration.segments):
            threshold_of(fitted, detector.threshold, segment)
    except DetectorError as error:
        findings.error(f"{threshold}.keep_percent", str(error))
    return fitted.head.encodes


def check_guard(findings: Findings, path: str, route: Route, guard: Guard) -> None:
    """What is wrong with the guard of a route."""
    if guard.detector:
        findings.refers(f"{path}.detector", guard.detector, "detectors", "detector")
    route_path = path.removesuffix(".guard")
    if route.cascade is not None or not findings.complete(route_path) or findings.written(f"{route_path}.cascade"):
        return
    for name, value, others in (("when_ood", guard.when_ood, "flag or refuse"), ("when_unscored", guard.when_unscored, "serve or refuse")):
        if value == "to_last":
            findings.error(
                f"{path}.{name}", "there is no last stage to go to: the route has no cascade", f"write {others}, or make it a cascade"
            )


def check_hedge(findings: Findings, path: str, route: Route, hedge: Hedge) -> None:
    """What is wrong with the hedge of a route."""
    route_path = path.removesuffix(".hedge")
    if not findings.complete(route_path) or not findings.readable(f"{path}.to"):
        return
    _check_calls(findings, path, route, hedge)
    stages = tuple(stage.backend for stage in route.cascade.stages) if route.cascade is not None else ()
    firsts = last_backends(route.cascade) if route.cascade is not None else route.failover or ((route.backend,) if route.backend else ())
    here = f"{path}.to" if findings.written(f"{path}.to") else path
    if hedge.to == TO_REPLICA:
        known = [name for name in (*stages, *firsts) if name in {backend.name for backend in findings.policy.backends}]
        if known and not replicated(findings.policy).intersection(known):
            findings.error(here, f"no backend of this route has a second replica: {', '.join(known)}", "add one, or write to: BACKEND")
        return
    if nearest(hedge.to, (TO_REPLICA,)) and hedge.to not in {backend.name for backend in findings.policy.backends}:
        findings.error(here, f"expected {TO_REPLICA} or the name of a backend, not {shown(hedge.to)}", f'did you mean "{TO_REPLICA}"?')
    else:
        findings.refers(here, hedge.to, "backends", "backend")
    if firsts and hedge.to == firsts[0]:
        findings.error(here, f'"{hedge.to}" is the backend that is hedged', f"for another replica of it write {TO_REPLICA}")
    elif hedge.to in stages:
        findings.error(here, f'"{hedge.to}" is a stage of this cascade, and no longer of use when its last stage is slow')


def _check_calls(findings: Findings, path: str, route: Route, hedge: Hedge) -> None:
    """Of a failover; a cascade counts its own."""
    calls = len(route.failover) + hedged_calls(route.failover, hedge, findings.policy)
    if calls > CALLS_MAX:
        findings.error(path, f"with its hedge one request could make {calls} calls; at most {CALLS_MAX} may be made")
