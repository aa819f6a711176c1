"""A calibration in use: the learned score of an answer and the threshold below which it is deferred, read from one file.

`headgate calibrate cascade` writes the file (`policies.calibration` fits it, with numpy); this side is what a worker loads: standard
library and msgspec, a few microseconds an answer.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

VERSION = 1
FEATURES_MAX = 64
"""Features of one calibration, at the most."""
KNOTS_MAX = 256
LEVELS_MAX = 64
_EDGE = 1e-6

Space: TypeAlias = Literal["plain", "logit", "log", "minus_log"]
"""How a feature is stretched before the curve: `logit` for what lies in 0..1, `log` (of 1e-6 + x) for what is never negative,
`minus_log` (of 1e-6 - x) for what is never positive."""


class CalibrationError(Exception):
    """The file is not a calibration, or not one that can be used here; the message says why."""


class Curve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A piecewise linear function of one feature, where the category has this level (None: any)."""

    feature: str
    space: Space
    knots: tuple[float, ...]
    worse: tuple[float, ...]
    """Added to the log-odds of "the cheap answer is worse", at each knot."""
    better: tuple[float, ...]
    level: float | str | None = None


class Level(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one level of a category (a feature with few values, or the segment) adds to the log-odds."""

    feature: str
    value: float | str
    worse: float
    better: float


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The learned score: 1 - P(worse) + credit * P(better), P from two logistic models that are sums of curves and levels."""

    features: tuple[str, ...]
    worse: float
    better: float
    """Log-odds to start from."""
    credit: float
    """What a better answer counts against a worse one, 0..1: below 1 where there are few rows, since what is better and what is
    worse cancel out in the loss but add up in its uncertainty."""
    curves: tuple[Curve, ...] = ()
    levels: tuple[Level, ...] = ()
    split_by: str | None = None
    """The category whose levels have curves of their own."""


class Binding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a calibration holds for, and for nothing else."""

    backend: str | None = None
    score: str = "calibrated"
    prefix_tokens: int | None = None
    """Tokens that were judged; None: the whole answer."""
    tokens: Literal["content", "tool_arguments", "all"] = "content"
    evidence: Literal["none", "logprobs", "logits"] = "logprobs"


class Bounded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An estimate and the bounds it lies within, each at the calibration's confidence."""

    estimate: float
    lower: float
    upper: float


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One threshold of the cost-quality curve, on the rows that chose the threshold."""

    threshold: float
    deferred: float
    loss: float
    saving: float


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="headgate-calibration"):
    """A learned score with its threshold and what it promises."""

    version: int
    epsilon: float
    confidence: float
    cost_small: float
    cost_large: float
    test: Literal["exact", "betting"]
    promise: str
    """In words."""
    enabled: bool
    """False where it was not shown that the cascade saves anything: everything then goes to the last stage."""
    threshold: float | None
    """Answers with a lower score are deferred; None: all of them."""
    model: Model
    binding: Binding
    rows_trained: int
    rows_calibrated: int
    deferred: Bounded
    loss: Bounded
    """lower: of the estimate's two-sided range where it is known, else -1; upper: epsilon where the promise was shown."""
    saving: Bounded
    curve: tuple[Point, ...] = ()
    made_from: str = ""
    """Hash of the rows."""

    def score(self, features: Mapping[str, float | str]) -> float | None:
        """Near 1: the cheap answer is as good. None where a feature is missing or no number: the score is unavailable."""
        return score(self.model, features)

    def defers(self, features: Mapping[str, float | str]) -> bool | None:
        """None where the score is unavailable: `when_unscored` decides."""
        if not self.enabled or self.threshold is None:
            return True
        found = score(self.model, features)
        return None if found is None else found < self.threshold


def score(model: Model, features: Mapping[str, float | str]) -> float | None:
    """See `Calibration.score`."""
    worse, better = model.worse, model.better
    stretched: dict[tuple[str, str], float] = {}
    for name in model.features:
        value = features.get(name)
        if value is None or (not isinstance(value, str) and not math.isfinite(value)):
            return None
    for level in model.levels:
        if features[level.feature] == level.value:
            worse += level.worse
            better += level.better
    split = features[model.split_by] if model.split_by is not None else None
    for curve in model.curves:
        if curve.level is not None and curve.level != split:
            continue
        key = (curve.feature, curve.space)
        if (x := stretched.get(key)) is None:
            value = features[curve.feature]
            if isinstance(value, str):
                return None
            x = stretched[key] = stretch(curve.space, value)
        knots = curve.knots
        if x <= knots[0]:
            worse += curve.worse[0]
            better += curve.better[0]
        elif x >= knots[-1]:
            worse += curve.worse[-1]
            better += curve.better[-1]
        else:
            right = bisect_right(knots, x)
            left = right - 1
            part = (x - knots[left]) / (knots[right] - knots[left])
            worse += curve.worse[left] + part * (curve.worse[right] - curve.worse[left])
            better += curve.better[left] + part * (curve.better[right] - curve.better[left])
    return 1 - _logistic(worse) + model.credit * _logistic(better)


def stretch(space: Space, value: float) -> float:
    """The feature as the curves take it."""
    if space == "logit":
        inside = min(max(value, _EDGE), 1 - _EDGE)
        return math.log(inside / (1 - inside))
    if space == "log":
        return math.log(max(value, 0.0) + _EDGE)
    if space == "minus_log":
        return -math.log(max(-value, 0.0) + _EDGE)
    return value


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def read(data: bytes, name: str = "calibration") -> Calibration:
    """A calibration from its file's bytes. Raises `CalibrationError`, which says what was wrong and what to do."""
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{name} is not a calibration: not JSON ({error}); was it cut off?") from error
    if not isinstance(raw, dict) or raw.get("kind") != "headgate-calibration":
        raise CalibrationError(f'{name} is not a calibration: "kind" is not "headgate-calibration"')
    if raw.get("version") != VERSION:
        raise CalibrationError(f"{name} is a calibration of version {raw.get('version')}; this Headgate reads {VERSION}: calibrate again")
    try:
        found = msgspec.convert(raw, Calibration)
    except msgspec.ValidationError as error:
        raise CalibrationError(f"{name} is not a calibration: {error}") from error
    _check(found, name)
    return found


def write(calibration: Calibration) -> bytes:
    """The file's bytes; the same calibration always gives the same."""
    return msgspec.json.format(msgspec.json.encode(calibration), indent=1) + b"\n"


def mismatch(calibration: Calibration, wanted: Binding) -> str | None:
    """Why the calibration does not hold for `wanted`, or None."""
    bound = calibration.binding
    for field in ("backend", "score", "prefix_tokens", "tokens", "evidence"):
        made, asked = getattr(bound, field), getattr(wanted, field)
        if made != asked:
            return f"it was made for {field} {made if made is not None else 'none'}, not {asked if asked is not None else 'none'}"
    return None


def _check(calibration: Calibration, name: str) -> None:
    model = calibration.model

    def bad(what: str) -> CalibrationError:
        return CalibrationError(f"{name} is not a calibration: {what}")

    if not (0 < calibration.epsilon < 1 and 0.5 <= calibration.confidence < 1):
        raise bad("epsilon must lie within 0 and 1, confidence within 0.5 and 1")
    if calibration.rows_calibrated < 1:
        raise bad("it has no calibration: no rows chose its threshold")
    if calibration.enabled and calibration.threshold is None:
        raise bad("it is enabled without a threshold")
    if not 0 <= model.credit <= 1:
        raise bad("model.credit must be from 0 to 1")
    if len(model.features) > FEATURES_MAX or len(model.levels) > FEATURES_MAX * LEVELS_MAX:
        raise bad(f"more than {FEATURES_MAX} features")
    known = set(model.features)
    named = [curve.feature for curve in model.curves] + [level.feature for level in model.levels]
    named += [model.split_by] if model.split_by is not None else []
    for feature in named:
        if feature not in known:
            raise bad(f'"{feature}" is not among model.features')
    for curve in model.curves:
        if not 1 <= len(curve.knots) <= KNOTS_MAX or not len(curve.knots) == len(curve.worse) == len(curve.better):
            raise bad(f'the curve of "{curve.feature}" does not have as many values as knots')
        if any(not left < right for left, right in zip(curve.knots, curve.knots[1:], strict=False)):
            raise bad(f'the knots of "{curve.feature}" do not rise')
    if not all(map(math.isfinite, _numbers(calibration))):
        raise bad("a number is not finite")


def _numbers(calibration: Calibration) -> Sequence[float]:
    model = calibration.model
    found = [model.worse, model.better, calibration.threshold or 0.0]
    for level in model.levels:
        found += [level.worse, level.better]
    for curve in model.curves:
        found += [*curve.knots, *curve.worse, *curve.better]
    return found
