"""What a route's cascade promises, as its audits are held against it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from policies import calibrated
from policies.deferral import tightening
from policies.rules import conditions, last_backends
from policies.schema import Policy, Route
from policies.schema_rules import Cascade

OnViolation: TypeAlias = Literal["alert", "tighten", "disable"]

CONFIDENCE = 0.95
"""Of bounds where no calibration says another."""


class Promise(msgspec.Struct, frozen=True):
    """Of one route with a cascade."""

    key: str
    """The same as long as what decides and what answers are the same: stages with their calibrations, backends' models, what counts as
    agreement and what follows a violation. Neither the percentages of the audit nor anything beside the cascade is in it."""
    stages: tuple[str, ...]
    """Their backends."""
    last: tuple[str, ...]
    epsilon: float | None
    """What may be lost at most, the sum over calibrated stages; None where none is calibrated."""
    confidence: float
    levels: Mapping[str, tuple[tuple[float, ...], ...]]
    """By backend of a calibrated stage: of each calibration its threshold as certified, then at each step of tightening."""
    audited: bool
    accepted_percent: float
    deferred_percent: float
    on_violation: OnViolation

    def stale(self, backend: str, bound: float | None, tightened: int) -> bool:
        """Was a reply held against a threshold of another step of tightening?"""
        levels = self.levels.get(backend, ())
        if any(bound == thresholds[min(tightened, len(thresholds) - 1)] for thresholds in levels):
            return False
        return any(bound in thresholds for thresholds in levels)


def promise(route: Route, policy: Policy, files: Mapping[str, bytes]) -> Promise:
    """Of a route that has a cascade. `files`: what the policy's files hold. Raises ValueError for a route without one."""
    cascade = route.cascade
    if cascade is None:
        raise ValueError(f"route {route.name} has no cascade")
    found = {stage.backend: _calibrations(cascade, index, files) for index, stage in enumerate(cascade.stages)}
    levels = {backend: tuple(map(tightening, made)) for backend, made in found.items() if made}
    made = [each for several in found.values() for each in several]
    audit = cascade.audit
    return Promise(
        key=_key(cascade, policy, files),
        stages=tuple(stage.backend for stage in cascade.stages),
        last=last_backends(cascade),
        epsilon=sum(max(each.epsilon for each in several) for several in found.values() if several) if made else None,
        confidence=min((each.confidence for each in made), default=CONFIDENCE),
        levels=levels,
        audited=audit is not None,
        accepted_percent=audit.accepted_percent if audit is not None else 0.0,
        deferred_percent=audit.deferred_percent if audit is not None else 0.0,
        on_violation=audit.on_violation if audit is not None else "alert",
    )


def _calibrations(cascade: Cascade, index: int, files: Mapping[str, bytes]) -> list[calibrated.Calibration]:
    when = cascade.stages[index].defer_when
    named = [each.calibration for each in conditions(when) if each.calibration is not None] if when is not None else []
    return [calibrated.read(files[name], name) for name in named]


def _key(cascade: Cascade, policy: Policy, files: Mapping[str, bytes]) -> str:
    rules = [each for stage in cascade.stages if stage.defer_when is not None for each in conditions(stage.defer_when)]
    named = sorted({each.calibration for each in rules if each.calibration is not None})
    called = {*(stage.backend for stage in cascade.stages), *last_backends(cascade)}
    audit = cascade.audit
    decides = (
        cascade.stages,
        cascade.last,
        [hashlib.sha256(files[name]).hexdigest() for name in named],
        [(backend.name, backend.kind, backend.model, backend.evidence) for backend in policy.backends if backend.name in called],
        (audit.agree, audit.on_violation) if audit is not None else None,
    )
    return hashlib.sha256(msgspec.json.encode(decides)).hexdigest()[:16]
