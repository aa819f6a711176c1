"""From lines to a calibration: learn the score, walk the thresholds from "defer all" downwards, bound what it saves.

Learn-then-test with a fixed sequence (Angelopoulos et al. 2021): the grid comes from the training lines alone, each threshold is
tested in order at the full level, and the walk ends at the first whose loss is not shown to be below epsilon. The chance that the
chosen threshold loses more than epsilon is then at most 1 - confidence, whatever the score and the traffic are like, as long as the
calibration lines and the traffic come from the same source.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from policies.calibrated import VERSION, Binding, Bounded, Calibration, CalibrationError, Model, Point
from policies.calibration.betting import capital
from policies.calibration.exact import ExactTest, exact_test
from policies.calibration.learn import learn, scored
from policies.calibration.pairs import Pairs

Floats = NDArray[np.float64]

STEP = 0.0025
"""Share of the training lines between two thresholds of the grid, where the walk may well end."""
COARSE = 0.02
"""The same where the training lines say that it will not."""
SURE = (6.0, -3.0)
"""Standard errors below epsilon, by the training lines, between which the grid is fine."""
CURVE_POINTS = 101
CALIBRATE_MIN = 20
LEARN_SHARE = 0.5
"""Of the data, where no training lines are given."""
BETTING_CELLS_MAX = 20_000_000
"""Lines x thresholds that the betting test looks at; the grid is made coarser above."""


class Terms(msgspec.Struct, frozen=True):
    """What is promised and what the models cost (any unit; only the ratio counts)."""

    epsilon: float
    confidence: float
    cost_small: float
    cost_large: float
    quality: Literal["quality", "agreement"] = "quality"
    """What the lines' quality is: how good an answer is, or whether it agrees with the large model's."""

    def check(self) -> None:
        """Raises `CalibrationError`."""
        if not 0 < self.epsilon < 1:
            raise CalibrationError(f"epsilon must lie within 0 and 1, not {self.epsilon:g}")
        if not 0.5 <= self.confidence < 1:
            raise CalibrationError(f"confidence must be at least 0.5 and below 1, not {self.confidence:g}")
        if not (self.cost_large > 0 and self.cost_small >= 0 and math.isfinite(self.cost_large + self.cost_small)):
            raise CalibrationError("the large model's cost must be above 0 and the small one's not below 0")

    def saving(self, deferred: float) -> float:
        """1 - mean cost / cost of the large model; the small one is always paid."""
        return 1 - (self.cost_small + self.cost_large * deferred) / self.cost_large


def calibrate(data: Pairs, train: Pairs | None, terms: Terms, binding: Binding, seed: int = 0) -> Calibration:
    """A calibration whose score is learned on `train` (a disjoint half of `data` where there is none) and certified on `data`."""
    terms.check()
    if train is None:
        order = np.random.default_rng(seed).permutation(len(data))
        cut = int(len(data) * LEARN_SHARE)
        train, data = data.take(np.sort(order[:cut])), data.take(np.sort(order[cut:]))
    if len(data) < CALIBRATE_MIN:
        raise CalibrationError(f"{len(data)} lines are too few to calibrate with: {CALIBRATE_MIN} at least, better thousands")
    model = learn(train)
    model = msgspec.structs.replace(model, credit=credit(model, train, len(data), terms))
    risk_train, risk = scored(model, train), scored(model, data)
    # A line without a score is never accepted.
    risk = np.where(np.isnan(risk), -math.inf, risk)
    grid = thresholds(risk_train, train.loss, len(data), terms.epsilon)
    exact = data.binary
    threshold = certify(risk, data.loss, grid, terms, exact)
    return _written(model, train, data, risk, grid, threshold, terms, binding, exact)


def thresholds(risk_train: Floats, loss_train: Floats, lines: int, epsilon: float) -> Floats:
    """The grid, from "defer nearly all" downwards: quantiles of the training lines' scores.

    Fine where `lines` lines will decide, coarse where the training lines leave no doubt; all of it is fixed before the first test.
    """
    fine = np.unique(np.quantile(risk_train, np.arange(0, 1 - STEP / 2, STEP)))[::-1]
    order = np.argsort(-risk_train, kind="stable")
    counts = np.searchsorted(-risk_train[order], -fine, side="right")
    mean = np.concatenate(([0.0], np.cumsum(loss_train[order])))[counts] / len(loss_train)
    square = np.concatenate(([0.0], np.cumsum(loss_train[order] ** 2)))[counts] / len(loss_train)
    errors = (epsilon - mean) * np.sqrt(lines / np.maximum(square - mean * mean, epsilon))
    keep = (errors < SURE[0]) & (errors > SURE[1])
    keep |= np.diff(np.floor(counts / (COARSE * len(loss_train))), append=math.inf) > 0
    return np.asarray(fine[keep])


def credit(model: Model, train: Pairs, lines: int, terms: Terms) -> float:
    """What a better answer should count, so that most is accepted for the loss that `lines` lines can certify.

    Accepting by E[loss] + c E[loss^2] with c = z / (2 sd sqrt(lines)) maximises the share accepted under "mean + z sd / sqrt(lines)
    <= epsilon"; sd is taken where that share would be on the training lines.
    """
    z = _normal_quantile(terms.confidence)
    found = model.credit
    for _ in range(2):
        order = np.argsort(-scored(msgspec.structs.replace(model, credit=found), train), kind="stable")
        loss = train.loss[order]
        mean, square = np.cumsum(loss) / len(loss), np.cumsum(loss * loss) / len(loss)
        deviation = np.sqrt(np.maximum(square - mean * mean, 1e-12))
        allowed = np.nonzero(mean + z * deviation / math.sqrt(lines) <= terms.epsilon)[0]
        if not len(allowed):
            return model.credit
        c = z / (2 * max(float(deviation[allowed[-1]]), 1e-3) * math.sqrt(lines))
        found = min(max((1 - c) / (1 + c), 0.0), 1.0)
    return found


def certify(risk: Floats, loss: Floats, grid: Floats, terms: Terms, exact: bool) -> float | None:
    """The last threshold of the walk whose loss was shown to be below epsilon; None where the first already was not."""
    if exact:
        return _walk_exact(risk, loss, grid, exact_test(len(loss), terms.epsilon, _alpha(terms)))
    return _walk_betting(risk, loss, grid, terms)


def _walk_exact(risk: Floats, loss: Floats, grid: Floats, test: ExactTest) -> float | None:
    order = np.argsort(-risk, kind="stable")
    accepted = np.searchsorted(-risk[order], -grid, side="right")
    worse = np.concatenate(([0], np.cumsum(loss[order] > 0)))[accepted].tolist()
    better = np.concatenate(([0], np.cumsum(loss[order] < 0)))[accepted].tolist()
    found = None
    for threshold, a, b in zip(grid.tolist(), worse, better, strict=True):
        if not test.rejects(a, b):
            break
        found = threshold
    return found


def _walk_betting(risk: Floats, loss: Floats, grid: Floats, terms: Terms) -> float | None:
    every = max(1, math.ceil(len(grid) * len(loss) / BETTING_CELLS_MAX))
    grid = grid[::every]
    alpha = _alpha(terms)
    found = None
    for start in range(0, len(grid), 64):
        part = grid[start : start + 64]
        shown = capital(loss[:, None] * (risk[:, None] >= part[None, :]), terms.epsilon, alpha) >= 1 / alpha
        last = len(part) if shown.all() else int(np.argmin(shown))
        if last:
            found = float(part[last - 1])
        if last < len(part):
            break
    return found


def evaluate(calibration: Calibration, pairs: Pairs) -> dict[str, float | int]:
    """What the calibration does to other lines. A disabled cascade sends all to the last stage and does not ask the small model."""
    terms = Terms(calibration.epsilon, calibration.confidence, calibration.cost_small, calibration.cost_large)
    if not calibration.enabled or calibration.threshold is None:
        return {"rows": len(pairs), "deferred": 1.0, "loss": 0.0, "saving": 0.0, "unscored": 0}
    found = scored(calibration.model, pairs)
    accepted = np.nan_to_num(found, nan=-math.inf) >= calibration.threshold
    deferred = 1 - float(accepted.mean())
    return {
        "rows": len(pairs),
        "deferred": deferred,
        "loss": float((pairs.loss * accepted).mean()),
        "saving": terms.saving(deferred),
        "unscored": int(np.isnan(found).sum()),
    }


def _written(
    model: Model,
    train: Pairs,
    data: Pairs,
    risk: Floats,
    grid: Floats,
    threshold: float | None,
    terms: Terms,
    binding: Binding,
    exact: bool,
) -> Calibration:
    accepted = risk >= threshold if threshold is not None else np.zeros(len(data), dtype=bool)
    deferred = 1 - float(accepted.mean())
    # Dvoretzky-Kiefer-Wolfowitz: holds for all thresholds at once, hence for the one that was chosen.
    wide = math.sqrt(math.log(1 / _alpha(terms)) / (2 * len(data)))
    low, high = max(deferred - wide, 0.0), min(deferred + wide, 1.0)
    losses = data.loss * accepted
    deviation = float(losses.std()) / math.sqrt(len(data))
    z = _normal_quantile(terms.confidence)
    enabled = threshold is not None and terms.saving(high) > 0
    loss = float(losses.mean())
    return Calibration(
        version=VERSION,
        epsilon=terms.epsilon,
        confidence=terms.confidence,
        cost_small=terms.cost_small,
        cost_large=terms.cost_large,
        test="exact" if exact else "betting",
        promise=_promise(terms, enabled, exact, len(data)),
        enabled=enabled,
        threshold=threshold,
        model=model,
        binding=binding,
        rows_trained=len(train),
        rows_calibrated=len(data),
        deferred=Bounded(deferred, low, high),
        loss=Bounded(loss, max(loss - z * deviation, -1.0), terms.epsilon if threshold is not None else max(loss, 0.0)),
        saving=Bounded(terms.saving(deferred), terms.saving(high), terms.saving(low)),
        curve=_curve(risk, data.loss, grid, terms),
        made_from=data.digest,
    )


def _curve(risk: Floats, loss: Floats, grid: Floats, terms: Terms) -> tuple[Point, ...]:
    chosen = grid[np.unique(np.linspace(0, len(grid) - 1, CURVE_POINTS).round().astype(np.int64))]
    points = []
    for threshold in chosen.tolist():
        accepted = risk >= threshold
        deferred = 1 - float(accepted.mean())
        points.append(Point(threshold, deferred, float((loss * accepted).mean()), terms.saving(deferred)))
    return tuple(points)


def _promise(terms: Terms, enabled: bool, exact: bool, lines: int) -> str:
    points = f"{100 * terms.epsilon:g} point" + ("" if terms.epsilon == 0.01 else "s")
    if not enabled:
        return (
            f"No saving could be shown while staying within {points} of the large model's quality with {100 * terms.confidence:g} % "
            f"confidence from {lines:,} lines. The cascade is disabled: every request goes to the last stage."
        )
    if terms.quality == "agreement":
        kept = f"the cascade's answers disagree with the large model's on at most {100 * terms.epsilon:g} % of all requests"
    else:
        kept = f"the cascade's mean quality is at most {points} below that of sending every request to the large model"
    how = "an exact test" if exact else "a betting test valid for any number of lines"
    return (
        f"With {100 * terms.confidence:g} % confidence {kept}, for traffic like the {lines:,} calibration lines. "
        f"Shown by {how}; no approximation for large samples."
    )


def _alpha(terms: Terms) -> float:
    return 1 - terms.confidence


def _normal_quantile(share: float) -> float:
    low, high = -10.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle / math.sqrt(2)) / 2 + 0.5 < share else (low, middle)
    return high
