"""The checks of `defer_when`: a threshold on the right side, a score that the evidence can give, a calibration that holds here."""

from __future__ import annotations

from policies import calibrated
from policies.calibrated import Binding, Calibration, CalibrationError
from policies.deferral import FEATURES, OOD_ENERGY, OOD_SCORE, SEGMENT, natural_direction
from policies.errors import nearest
from policies.findings import Findings
from policies.schema import Backend, Route
from policies.schema_rules import DeferWhen, HoldFor, ScoreName, Stage

DEPTH_MAX = 4
"""Levels of `any` and `all` within each other."""
_KINDS = ("score", "calibration", "any", "all")
_OF_A_SCORE = ("below", "above", "q")


def check_condition(findings: Findings, path: str, route: Route, stage: Stage, when: DeferWhen, depth: int = 0) -> None:
    """What is wrong with one deferral rule, or part of one, whose place in the file is `path`."""
    kinds = [name for name in _KINDS if findings.written(f"{path}.{name}")]
    if len(kinds) > 1:
        findings.error(path, f"has both {kinds[0]} and {kinds[1]}", "combine rules by any: [...] or all: [...]")
    elif not kinds and findings.complete(path):
        findings.error(path, "needs a score, a calibration, any or all")
    for name in _OF_A_SCORE:
        if "score" not in kinds and kinds and findings.written(f"{path}.{name}"):
            findings.error(f"{path}.{name}", f"has no meaning beside {kinds[0]}: it belongs to a score")
    if when.score is not None:
        _check_score(findings, path, stage, when, when.score)
    if when.calibration is not None:
        _check_calibration(findings, f"{path}.calibration", route, stage, when.calibration)
    for name, parts in (("any", when.any), ("all", when.all)):
        if not findings.written(f"{path}.{name}"):
            continue
        if not parts:
            findings.error(f"{path}.{name}", "the list is empty")
        if depth >= DEPTH_MAX:
            findings.error(f"{path}.{name}", f"rules within rules go {DEPTH_MAX} levels deep at the most")
            continue
        if name == "all" and len(parts) > 1 and any(map(_calibrated, parts)):
            findings.warning(f"{path}.all", "more is accepted than the calibration alone would accept: what it promises does not hold here")
        for index, part in enumerate(parts):
            check_condition(findings, f"{path}.{name}[{index}]", route, stage, part, depth + 1)


def _calibrated(when: DeferWhen) -> bool:
    """Whether a calibration stands in a rule, at whatever depth."""
    return when.calibration is not None or any(map(_calibrated, (*when.any, *when.all)))


def _check_score(findings: Findings, path: str, stage: Stage, when: DeferWhen, score: ScoreName) -> None:
    right = natural_direction(score)
    wrong = "above" if right == "below" else "below"
    given = when.above if wrong == "above" else when.below
    bound = when.below if right == "below" else when.above
    here = f"{path}.{right}"
    if given is not None:
        unsure = "high" if right == "above" else "low"
        hint = f"write {right}: {given:g}" if bound is None else f"leave it out: {right} stands here too"
        findings.error(f"{path}.{wrong}", f"{score} is {unsure} where an answer is unsure: defer {right} a threshold, not {wrong}", hint)
    elif bound is None and findings.complete(path) and findings.readable(here):
        findings.error(path, f'"{right}" is missing: what {score} is held against')
    if bound is not None:
        _check_bound(findings, here, score, bound)
    if score == "quantile_logprob" and when.q is None and findings.complete(path) and findings.readable(f"{path}.q"):
        findings.error(path, '"q" is missing: which quantile', "such as q: 0.1")
    if score != "quantile_logprob" and findings.written(f"{path}.q"):
        findings.error(f"{path}.q", f"has no meaning for {score}: it is for quantile_logprob")
    _check_evidence(findings, f"{path}.score", stage, score)


def _check_bound(findings: Findings, path: str, score: ScoreName, bound: float) -> None:
    """A threshold beyond what the score can be."""
    if score.endswith("logprob") and bound > 0:
        findings.error(path, f"a log-probability is never above 0: below {bound:g} everything is deferred", f"did you mean {-bound:g}?")
    elif score == "margin" and bound <= 0:
        findings.error(path, f"a margin is never below 0: below {bound:g} nothing is deferred")
    elif score == "perplexity" and bound < 1:
        findings.error(path, f"a perplexity is never below 1: above {bound:g} everything is deferred")
    elif score == "entropy" and bound < 0:
        findings.error(path, f"an entropy is never below 0: above {bound:g} everything is deferred")


def _backend(findings: Findings, stage: Stage) -> tuple[str, Backend] | None:
    """The backend of a stage and its place, where what its evidence is could be read."""
    for index, backend in enumerate(findings.policy.backends):
        path = f"backends[{index}]"
        if backend.name == stage.backend and findings.readable(f"{path}.evidence") and findings.complete(path):
            return path, backend
    return None


def _check_evidence(findings: Findings, path: str, stage: Stage, score: str) -> None:
    found = _backend(findings, stage)
    if found is None:
        return
    where, backend = found
    if backend.evidence == "none":
        findings.error(
            path,
            f"the backend {backend.name} gives no evidence, and {score} is computed from it",
            f"write evidence: logprobs at {where}, if its engine gives them",
        )
    elif score == "energy" and backend.evidence != "logits":
        findings.error(
            path,
            f"energy needs logits, and the evidence of the backend {backend.name} is {backend.evidence}",
            "entropy or margin can be had from log-probabilities",
        )


def _check_calibration(findings: Findings, path: str, route: Route, stage: Stage, name: str) -> None:
    data = findings.files.get(name)
    if data is None or not findings.readable(path):
        return
    try:
        made = calibrated.read(data, name)
    except CalibrationError as error:
        findings.error(path, str(error))
        return
    _check_evidence(findings, path, stage, "a calibrated score")
    _check_binding(findings, path, stage, made)
    _check_features(findings, path, route, made)
    if not made.enabled or made.threshold is None:
        findings.warning(path, f"the calibration is disabled, so that the stage {stage.backend} is never asked: {made.promise}")


def _check_binding(findings: Findings, path: str, stage: Stage, made: Calibration) -> None:
    found = _backend(findings, stage)
    stage_path = path[: path.index(".defer_when")]
    if found is None or found[1].evidence == "none" or not findings.readable(f"{stage_path}.hold"):
        return
    prefix = stage.hold.tokens if isinstance(stage.hold, HoldFor) else None
    wanted = Binding(stage.backend, "calibrated", prefix, stage.tokens, found[1].evidence)
    if (fault := calibrated.mismatch(made, wanted)) is not None:
        options = f"--backend {stage.backend}" + (f" --prefix-tokens {prefix}" if prefix is not None else "")
        options += f" --tokens {stage.tokens}" if stage.tokens != "content" else ""
        options += " --evidence logits" if wanted.evidence == "logits" else ""
        findings.error(path, f"the calibration does not hold here: {fault}", f"calibrate with {options}")


def _check_features(findings: Findings, path: str, route: Route, made: Calibration) -> None:
    for feature in made.model.features:
        if feature not in FEATURES:
            findings.error(path, f'the calibration goes by "{feature}", which the gateway does not compute', nearest(feature, FEATURES))
        elif feature == SEGMENT and len(route.segments) != 1:
            findings.error(
                path, f"the calibration goes by the segment: the route needs exactly one, and has {len(route.segments) or 'none'}"
            )
        elif feature in (OOD_SCORE, OOD_ENERGY) and route.guard is None:
            findings.error(path, f"the calibration goes by {feature}, which only a guard computes")
