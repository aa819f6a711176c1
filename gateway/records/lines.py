"""Calibration lines from audited records: the features of a stage's reply, and whether the last stage's answer agrees with it.

The lines are a fair sample of what the stage was asked, whichever share of the accepted and of the deferred replies was audited: weights
are the inverse of that share, and they are applied by leaving lines out. The side that was audited more is thinned to the share of the
other, by the very hash that sampled it, so every line that is left weighs the same, and the exact test of a calibration holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

import msgspec

from gateway.link.messages import ExchangeRecord, ScoresRecord
from gateway.records.decided import ACCEPTED, DEFERRED, UNRELATED, audit_of, decided
from policies import scores
from policies.calibration.pairs import ROWS_MAX, Pairs, columns
from policies.deferral import OOD_ENERGY, OOD_SCORE
from policies.hashing import sample

Percents = Mapping[str, tuple[float, float]]
"""By policy version: the percentages of accepted and of deferred replies that are audited."""


class Line(msgspec.Struct, frozen=True):
    """One audited exchange."""

    exchange_id: str
    deferred: bool
    agreed: bool
    features: dict[str, float]
    segment: str | None
    version: str


class Found(msgspec.Struct):
    """Lines, and why other records are none."""

    lines: list[Line] = []
    untold: int = 0
    """Lines whose audit could not be told: taken for a disagreement."""
    unscored: int = 0
    """Left out: replies without a score, or cut short; `when_unscored` decides about such, not a calibration."""
    unrelated: int = 0
    """Left out: audits that were not made for a reason that says nothing of the answers."""
    other_policies: int = 0
    """Left out: records of another cascade, or of a policy that does not audit both sides."""
    thinned: int = 0
    """Left out, so that accepted and deferred ones stand for the same number of requests each."""
    full: bool = False

    def take(self, record: ExchangeRecord, stage: str, percents: Percents) -> None:
        """Add the line of a record that has one."""
        verdict = decided(record)
        if verdict not in ("accepted", "deferred") or record.findings is None:
            return
        if min(percents.get(record.policy_version, (0.0, 0.0))) <= 0:
            self.other_policies += 1
            return
        deferred = verdict == "deferred"
        audit = audit_of(record, DEFERRED, stage) if deferred else audit_of(record, ACCEPTED)
        if audit is None:
            return
        if audit.agreed is None and audit.why in UNRELATED:
            self.unrelated += 1
            return
        known = _features(record, stage)
        if known is None:
            self.unscored += 1
            return
        if len(self.lines) >= ROWS_MAX:
            self.full = True
            return
        self.untold += audit.agreed is None
        segment = record.segments[0][1] if len(record.segments) == 1 else None
        self.lines.append(Line(record.exchange_id, deferred, audit.agreed is True, known, segment, record.policy_version))

    def thin(self, route: str, percents: Percents) -> float:
        """Leave out what is audited too often; the percentage of requests that every line stands for then."""
        used = {line.version for line in self.lines}
        percent = min((min(percents[version]) for version in used), default=0.0)
        rules = {False: f"{route}.audit.accepted", True: f"{route}.audit.deferred"}  # of `policies.cascade`
        kept = [line for line in self.lines if sample(line.exchange_id, rules[line.deferred], percent)]
        self.thinned = len(self.lines) - len(kept)
        self.lines = kept
        return percent

    def pairs(self) -> Pairs:
        """As `policies.calibration` takes them: quality is agreement with the last stage, which agrees with itself."""
        digest = sha256(b"".join(msgspec.json.encode(line) for line in self.lines)).hexdigest()
        return columns(
            [line.features for line in self.lines],
            [(float(line.agreed), 1.0) for line in self.lines],
            [line.segment for line in self.lines],
            f"sha256:{digest}",
        )


def gather(records: Iterable[ExchangeRecord], route: str, stage: str, percents: Percents) -> Found:
    """The thinned lines of a route's records, of replies of `stage`."""
    found = Found()
    for record in records:
        found.take(record, stage, percents)
    found.thin(route, percents)
    return found


def _features(record: ExchangeRecord, stage: str) -> dict[str, float] | None:
    """What a learned score can be computed from, as a worker would; None where the reply has no score."""
    assert record.findings is not None
    at = next((judgement.call for judgement in record.findings.judgements if judgement.backend == stage), None)
    made = record.calls[at].scores if at is not None and at < len(record.calls) else None
    if made is None or made.status in ("unavailable", "truncated"):
        return None
    found = _scored(made)
    if (guard := record.findings.assessment) is not None and guard.score is not None:
        found[OOD_SCORE] = guard.score
        if guard.energy is not None:
            found[OOD_ENERGY] = guard.energy
    return found


def _scored(made: ScoresRecord) -> dict[str, float]:
    """Log-probabilities of an impossible token have no word in JSON and come back as None: every scored reply has the first three."""
    names = [f"quantile_logprob_{q:g}" for q in scores.QUANTILES]
    always = {"mean_logprob": made.mean_logprob, "min_logprob": made.min_logprob, **dict(zip(names, made.quantiles, strict=False))}
    found = {name: scores.MINUS_INFINITY if value is None else max(value, scores.MINUS_INFINITY) for name, value in always.items()}
    found["tokens"] = float(made.tokens)
    for name in ("margin", "first_margin", "entropy", "energy"):
        if (value := getattr(made, name)) is not None:
            found[name] = value
    return found
