"""The lines that a calibration is made from: evidence and features of a cheap answer, and how good it and the dear one were."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from policies import scores
from policies.calibrated import FEATURES_MAX, CalibrationError

ROWS_MAX = 2_000_000
ERRORS_MAX = 10
"""Bad lines that one error names."""
_NOT_FINITE = re.compile(rb"[:,[]\s*(NaN|-?Infinity)\b")
_NO_JSON = "; NaN and Infinity are no JSON: write null for a log-probability that is not known"
SEGMENT = "segment"
"""The name under which a line's segment is a feature."""

Floats = NDArray[np.float64]


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cheap answer's tokens; logits instead of log-probabilities where `--evidence logits` says so."""

    logprobs: tuple[float | None, ...] = ()
    top_logprobs: tuple[tuple[float | None, ...] | None, ...] | None = None


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From 0 (useless) to 1 (perfect)."""

    small: float
    large: float


class Line(msgspec.Struct, frozen=True):
    """One request that both models answered. Fields of other names are let be."""

    quality: Quality
    evidence: Evidence | None = None
    features: dict[str, float] = {}
    segment: str | None = None


class Pairs:
    """Lines as columns. `features[name]` has NaN where a line lacks the feature."""

    def __init__(
        self,
        features: dict[str, Floats],
        loss: Floats,
        binary: bool,
        segments: Sequence[str] | NDArray[np.object_] | None,
        digest: str = "",
    ) -> None:
        self.features = features
        self.loss = loss
        """q_large - q_small of each line, -1..1."""
        self.binary = binary
        """Every quality is 0 or 1."""
        self.segments = np.array(segments, dtype=object) if segments is not None else None
        self.digest = digest

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, rows: NDArray[np.int64]) -> Pairs:
        """Some of the lines."""
        segments = self.segments[rows] if self.segments is not None else None
        return Pairs({name: column[rows] for name, column in self.features.items()}, self.loss[rows], self.binary, segments, self.digest)

    def row(self, index: int) -> dict[str, float | str]:
        """One line's features, as `Calibration.score` takes them."""
        found: dict[str, float | str] = {
            name: value for name, column in self.features.items() if not math.isnan(value := float(column[index]))
        }
        if self.segments is not None:
            found[SEGMENT] = str(self.segments[index])
        return found


def read(lines: Iterable[bytes], name: str, *, logits: bool = False, prefix_tokens: int | None = None) -> Pairs:
    """The pairs of a JSONL file; blank lines are skipped. Raises `CalibrationError` that names every bad line, up to ten.

    `prefix_tokens`: only so many tokens of the evidence are looked at, as a hold of that length will.
    """
    decoder = msgspec.json.Decoder(Line)
    digest = hashlib.sha256()
    rows: list[dict[str, float]] = []
    qualities: list[tuple[float, float]] = []
    segments: list[str | None] = []
    wrong: list[str] = []
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        if len(rows) >= ROWS_MAX:
            raise CalibrationError(f"{name} has more than {ROWS_MAX:,} lines")
        try:
            line = decoder.decode(text)
            rows.append(_features(line, logits, prefix_tokens))
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            wrong.append(f"{name}:{number}: {error}{_NO_JSON if _NOT_FINITE.search(text) else ''}")
            if len(wrong) == ERRORS_MAX:
                break
            continue
        digest.update(text.strip() + b"\n")
        qualities.append((line.quality.small, line.quality.large))
        segments.append(line.segment)
    if wrong:
        raise CalibrationError("\n".join(wrong))
    if not rows:
        raise CalibrationError(f"{name} has no lines")
    return columns(rows, qualities, segments, "sha256:" + digest.hexdigest())


def _features(line: Line, logits: bool, prefix_tokens: int | None) -> dict[str, float]:
    for which in ("small", "large"):
        if not 0 <= getattr(line.quality, which) <= 1:
            raise ValueError(f"quality.{which} must be from 0 to 1, not {getattr(line.quality, which):g}")
    found = dict(line.features)
    for feature, value in found.items():
        if not math.isfinite(value):
            raise ValueError(f"features.{feature} is not a finite number")
        if feature == SEGMENT:
            raise ValueError('a feature cannot be called "segment": that is a field of its own')
    if line.evidence is not None:
        seen = line.evidence
        if seen.top_logprobs is not None and len(seen.top_logprobs) != len(seen.logprobs):
            raise ValueError(f"evidence has {len(seen.logprobs)} logprobs and {len(seen.top_logprobs)} top_logprobs: one list a token")
        top = seen.top_logprobs[:prefix_tokens] if seen.top_logprobs is not None else None
        for feature, value in scores.features(scores.score(seen.logprobs[:prefix_tokens], top, logits=logits)).items():
            if feature in found:
                raise ValueError(f"features.{feature} is what Headgate computes from the evidence: give one or the other")
            found[feature] = value
    if len(found) > FEATURES_MAX:
        raise ValueError(f"more than {FEATURES_MAX} features")
    return found


def columns(
    rows: Sequence[dict[str, float]], qualities: Sequence[tuple[float, float]], segments: Sequence[str | None], digest: str
) -> Pairs:
    """Pairs of lines: the features of each, the qualities of its cheap and its dear answer, its segment. Raises `CalibrationError`
    where the lines have too many features."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if len(names) > FEATURES_MAX:
        raise CalibrationError(f"the lines have more than {FEATURES_MAX} features together")
    features = {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}
    quality = np.array(qualities)
    given = [each if each is not None else "" for each in segments] if any(each is not None for each in segments) else None
    return Pairs(features, quality[:, 1] - quality[:, 0], bool(np.isin(quality, (0.0, 1.0)).all()), given, digest)
