"""Learns the score: how likely the cheap answer is worse than the dear one, and how likely better, from features of it.

Two logistic models, each a sum of piecewise linear curves (hinges at quantiles, ridge): as good as boosted trees on the data that this
was tried on, smooth, and a table look-up to evaluate. Where a category of two or three levels (a predicted class, a segment) makes
the curves differ, cross-validation gives each level its own.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from policies.calibrated import LEVELS_MAX, CalibrationError, Curve, Level, Model, Space
from policies.calibration.pairs import SEGMENT, Pairs

KNOTS = 20
ROWS_PER_KNOT = 400
"""Fewer rows, fewer knots."""
TAIL = 0.02
"""Share of the lines beyond the lowest knot, and beyond the highest."""
RIDGE = 10.0
FEW = 12
"""A feature of at most so many whole values is a category."""
SPLIT_LEVELS = 3
SPLIT_ROWS = 200
"""A level has at least so many rows, or it gets no curves of its own."""
FOLDS = 2
TRAIN_MIN = 50
_EDGE = 1e-6
_ITERATIONS = 12
_ROUGHLY = 4
_NEVER = -30.0

Floats = NDArray[np.float64]
Objects = NDArray[np.object_]


def learn(pairs: Pairs, credit: float = 0.8) -> Model:
    """A model from training lines. Raises `CalibrationError` where they are too few or have no feature in common."""
    if len(pairs) < TRAIN_MIN:
        raise CalibrationError(f"{len(pairs)} lines are too few to learn a score from: {TRAIN_MIN} at least, better thousands")
    numeric = {name: column for name, column in pairs.features.items() if not np.isnan(column).any() and column.min() < column.max()}
    categories: dict[str, Objects] = {name: column.astype(object) for name, column in numeric.items() if _is_category(column)}
    if pairs.segments is not None and 1 < len(set(pairs.segments)) <= LEVELS_MAX:
        categories[SEGMENT] = pairs.segments
    curved = {name: column for name, column in numeric.items() if name not in categories}
    if not curved and not categories:
        raise CalibrationError("no feature is on every line and differs between lines: there is nothing to learn a score from")
    splits = [name for name, column in categories.items() if curved and _splits(column)]
    return _fit(pairs.loss, curved, categories, _choose_split(pairs.loss, curved, categories, splits), credit)


def scored(model: Model, pairs: Pairs) -> Floats:
    """`policies.calibrated.score` of every line; NaN where it is unavailable."""
    worse, better = np.full(len(pairs), model.worse), np.full(len(pairs), model.better)
    missing = np.zeros(len(pairs), dtype=bool)
    for name in model.features:
        if name == SEGMENT:
            missing |= pairs.segments is None
        else:
            missing |= np.isnan(pairs.features[name]) if name in pairs.features else True
    if missing.all():
        return np.full(len(pairs), math.nan)
    for level in model.levels:
        here = _column(pairs, level.feature) == level.value
        worse[here] += level.worse
        better[here] += level.better
    for curve in model.curves:
        x = _stretched(curve.space, pairs.features[curve.feature])
        here = _column(pairs, model.split_by) == curve.level if curve.level is not None and model.split_by else np.full(len(pairs), True)
        worse[here] += np.interp(x[here], curve.knots, curve.worse)
        better[here] += np.interp(x[here], curve.knots, curve.better)
    found: Floats = 1 - _logistic(worse) + model.credit * _logistic(better)
    found[missing] = math.nan
    return found


def _column(pairs: Pairs, name: str) -> Objects:
    return pairs.segments if name == SEGMENT and pairs.segments is not None else pairs.features[name].astype(object)


def _is_category(column: Floats) -> bool:
    values = np.unique(column[:2_000])
    return len(values) <= FEW and bool((values == np.round(values)).all()) and len(np.unique(column)) <= FEW


def _splits(column: Objects) -> bool:
    _, counts = np.unique(column, return_counts=True)
    return 2 <= len(counts) <= SPLIT_LEVELS and counts.min() >= SPLIT_ROWS


def _choose_split(loss: Floats, curved: dict[str, Floats], categories: dict[str, Objects], splits: list[str]) -> str | None:
    """The category whose own curves predict held-out lines best, None where none helps."""
    if not splits:
        return None
    fold = np.arange(len(loss)) % FOLDS
    best: tuple[float, str | None] | None = None
    for split in (None, *splits):
        cost = 0.0
        basis = _Basis(curved, categories, split)
        for each in range(FOLDS):
            kept = fold != each
            for target in _targets(loss):
                weights = _logistic_fit(basis.matrix[kept], target[kept], _ROUGHLY)
                cost += _deviance(target[~kept], _logistic(basis.matrix[~kept] @ weights))
        if best is None or cost < best[0]:
            best = cost, split
    return best[1] if best else None


class _Basis:
    """The columns that both models are linear in."""

    def __init__(self, curved: dict[str, Floats], categories: dict[str, Objects], split: str | None) -> None:
        rows = len(next(iter((curved or categories).values())))
        self.split = split
        self.levels = [(name, value) for name, column in categories.items() for value in np.unique(column).tolist()]
        blocks = [np.ones((rows, 1))] + [(categories[name] == value).astype(np.float64)[:, None] for name, value in self.levels]
        self.curves: list[tuple[str, Space, Floats, float | str | None]] = []
        groups = [None] if split is None else np.unique(categories[split]).tolist()
        for name, column in curved.items():
            space = _space(column)
            x = _stretched(space, column)
            count = max(1, min(KNOTS, rows // ROWS_PER_KNOT))
            # Flat beyond the outermost knots: a slope out there would rest on a handful of lines, and may cost all of epsilon.
            knots = np.unique(np.quantile(x, np.linspace(TAIL, 1 - TAIL, count + 1)))
            hinges = hinge(np.minimum(x, knots[-1]), knots)
            for group in groups:
                here = np.ones(rows) if group is None or split is None else (categories[split] == group).astype(np.float64)
                self.curves.append((name, space, knots, group))
                blocks.append(hinges * here[:, None])
        matrix = np.hstack(blocks)
        self.scale = matrix.std(axis=0)
        self.scale[self.scale < 1e-9] = 1.0
        self.matrix: Floats = matrix / self.scale


def hinge(x: Floats, knots: Floats) -> Floats:
    """max(x - knot, 0) for every knot but the last."""
    return np.maximum(x[:, None] - knots[None, :-1], 0.0)


def _fit(loss: Floats, curved: dict[str, Floats], categories: dict[str, Objects], split: str | None, credit: float) -> Model:
    basis = _Basis(curved, categories, split)
    worse, better = (_logistic_fit(basis.matrix, target) / basis.scale for target in _targets(loss))
    levels = tuple(
        Level(name, value, float(worse[1 + index]), float(better[1 + index])) for index, (name, value) in enumerate(basis.levels)
    )
    curves = []
    at = 1 + len(basis.levels)
    for name, space, knots, group in basis.curves:
        shape = hinge(knots, knots)
        width = shape.shape[1]
        curves.append(
            Curve(
                feature=name,
                space=space,
                knots=tuple(knots.tolist()),
                worse=tuple((shape @ worse[at : at + width]).tolist()),
                better=tuple((shape @ better[at : at + width]).tolist()),
                level=group,
            )
        )
        at += width
    return Model((*curved, *categories), float(worse[0]), float(better[0]), credit, tuple(curves), levels, split)


def _targets(loss: Floats) -> tuple[Floats, Floats]:
    return np.maximum(loss, 0.0), np.maximum(-loss, 0.0)


def _logistic_fit(matrix: Floats, target: Floats, iterations: int = _ITERATIONS) -> Floats:
    """Ridge logistic regression by Newton steps; the first column is the intercept, which is not shrunk. Targets from 0 to 1."""
    weights = np.zeros(matrix.shape[1])
    mean = float(target.mean())
    if mean <= 0:
        weights[0] = _NEVER
        return weights
    mean = min(mean, 1 - 1e-6)
    weights[0] = math.log(mean / (1 - mean))
    ridge = np.full(len(weights), RIDGE)
    ridge[0] = 1e-6
    for _ in range(iterations):
        chance = _logistic(matrix @ weights)
        slope = matrix.T @ (chance - target) + ridge * weights
        bend = (matrix * (chance * (1 - chance))[:, None]).T @ matrix
        bend[np.diag_indices_from(bend)] += ridge
        step = np.linalg.solve(bend, slope)
        weights -= step * min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-3:
            break
    return weights


def _logistic(x: Floats) -> Floats:
    found: Floats = 1 / (1 + np.exp(-np.clip(x, -700, 700)))
    return found


def _deviance(target: Floats, chance: Floats) -> float:
    inside = np.clip(chance, 1e-9, 1 - 1e-9)
    return -float((target * np.log(inside) + (1 - target) * np.log1p(-inside)).sum())


def _space(column: Floats) -> Space:
    low, high = column.min(), column.max()
    if low >= 0:
        return "logit" if high <= 1 else "log"
    return "minus_log" if high <= 0 else "plain"


def _stretched(space: Space, column: Floats) -> Floats:
    if space == "logit":
        inside = np.clip(column, _EDGE, 1 - _EDGE)
        return np.asarray(np.log(inside / (1 - inside)))
    if space == "log":
        return np.asarray(np.log(np.maximum(column, 0.0) + _EDGE))
    if space == "minus_log":
        return np.asarray(-np.log(np.maximum(-column, 0.0) + _EDGE))
    return column
