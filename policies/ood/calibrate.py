"""Conformal thresholds: from the scores of held-out in-distribution texts to a threshold that keeps a stated share of such.

With n exchangeable scores the threshold is the (n + 1 - l)-th smallest, l = floor((n + 1) alpha). The share of in-distribution
texts that it keeps is then distributed as Beta(n + 1 - l, l), whatever the scores are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

SEGMENT_TEXTS_MIN = 200
"""A segment with fewer held-out texts shares the threshold of all."""
TEXTS_ADVISED = 500
"""With fewer held-out texts than this the kept share is known only roughly."""
CONFIDENCE = 0.9


class CalibrationError(ValueError):
    """The held-out texts cannot carry the threshold that was asked for."""


class Threshold(msgspec.Struct, frozen=True):
    """A score above `score` is out of distribution; with the kept share's 90 % interval (Beta)."""

    score: float
    texts: int
    kept_low: float
    kept_high: float


class Calibration(msgspec.Struct, frozen=True):
    """The scores of held-out texts, ascending, of all and of each segment that has enough of its own."""

    scores: NDArray[np.float64]
    segments: Mapping[str, NDArray[np.float64]]

    def threshold(self, keep_percent: float, segment: str | None = None) -> Threshold:
        """The threshold of a segment, or of all where the segment has none of its own. Raises CalibrationError."""
        return threshold(self.segments.get(segment or "", self.scores), keep_percent)


def calibration(scores: NDArray[np.float64], segments: list[str | None]) -> Calibration:
    """From the scores of held-out texts and each one's segment. Raises CalibrationError for none, or for one that is no number."""
    if not len(scores) or not np.isfinite(scores).all():
        raise CalibrationError("calibration needs held-out texts, each with a finite score")
    named = {name: scores[[each == name for each in segments]] for name in dict.fromkeys(filter(None, segments))}
    own = {name: np.sort(found) for name, found in named.items() if len(found) >= SEGMENT_TEXTS_MIN}
    return Calibration(np.sort(scores), own)


def threshold(ascending: NDArray[np.float64], keep_percent: float) -> Threshold:
    """The threshold that keeps `keep_percent` of in-distribution texts or more. Raises CalibrationError where n is too small."""
    if not 0 < keep_percent < 100:
        raise CalibrationError(f"keep_percent must be above 0 and below 100, not {keep_percent:g}")
    n = len(ascending)
    alpha = 1 - keep_percent / 100
    # The small term: (19 + 1) * 0.05 must be 1, not a rounding error under it.
    above = math.floor((n + 1) * alpha + 1e-9)
    if above < 1:
        raise CalibrationError(
            f"keeping {keep_percent:g} % needs at least {math.ceil(1 / alpha - 1e-9) - 1} held-out texts, and there are {n}"
        )
    low, high = beta_interval(n + 1 - above, above, CONFIDENCE)
    return Threshold(float(ascending[n - above]), n, low, high)


def beta_interval(a: int, b: int, confidence: float) -> tuple[float, float]:
    """The central interval of a Beta(a, b), a and b whole and at least 1."""
    tail = (1 - confidence) / 2
    return _root(lambda x: _beta_below(x, a, b) - tail), _root(lambda x: _beta_below(x, a, b) - 1 + tail)


def _beta_below(x: float, a: int, b: int) -> float:
    """P(Beta(a, b) <= x), which is P(Binomial(a + b - 1, x) >= a): b terms."""
    n = a + b - 1
    if not 0 < x < 1:
        return float(x >= 1)
    # log C(n, k) for k = n, n - 1, ..., a: each from the one before.
    missing = np.arange(b)
    choose = np.concatenate([[0.0], np.cumsum(np.log((n - missing[:-1]) / (missing[:-1] + 1)))])
    return float(np.exp(choose + (n - missing) * math.log(x) + missing * math.log1p(-x)).sum())


def _root(rises: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) < 0 else (low, middle)
    return (low + high) / 2
