"""Chooses how scores are mixed by pseudo-OOD: classes held out of training play the part of what is out of distribution.

It needs no OOD data. Five times a quarter of the classes is held out, a head is trained on most of the texts of the others, and
each mix is judged by how well it ranks the held-out classes above the rest of the others' texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies.ood.energy import Floats, from_sums
from policies.ood.heads import Labels
from policies.ood.table import NO_TABLE, Table
from policies.ood.train import Counts, Trainer, sums

SPLITS = 5
HELD_OUT = 0.25
"""Of the classes."""
JUDGED = 0.25
"""Of the other classes' texts, not trained on either."""
TEXTS_MAX = 5_000
"""Texts that a split draws from: the choice of a mix needs no more."""
NEAR_BEST = 0.5
"""Points of AUROC."""
MIX_STEPS = 4
"""A mix that is tried gives each score a multiple of 1/4."""

Progress = Callable[[str], None]


class Split(NamedTuple):
    """The scores that one split's head gave, (n, len(names))."""

    names: tuple[str, ...]
    inside: Floats
    outside: Floats


class Mix(NamedTuple):
    """What was chosen, and how it did (0 to 100, means over the splits)."""

    shares: dict[str, float]
    weights: Floats
    """Of the scores as they are: the shares, over the scores' spreads."""
    auroc: float
    fpr95: float
    singles: dict[str, float]
    """AUROC of each score alone."""


def splits(counts: Counts, labels: Labels, rng: np.random.Generator, progress: Progress, table: Table = NO_TABLE) -> list[Split]:
    """Train and score the pseudo-OOD splits, but those that leave nothing to train on or to judge by. Needs at least 4 classes."""
    found = []
    for number in range(SPLITS):
        progress(f"pseudo-OOD {number + 1} of {SPLITS}")
        some = rng.permutation(len(labels))[:TEXTS_MAX]
        classes = np.unique(labels[some])
        held = rng.permutation(classes)[: max(1, round(len(classes) * HELD_OUT))]
        outside = np.isin(labels[some], held)
        judged = rng.random(len(some)) < JUDGED
        trained, inside = some[~outside & ~judged], some[~outside & judged]
        if not len(trained) or not len(inside):
            continue
        _, own = np.unique(labels[trained], return_inverse=True)
        head = Trainer(counts.take(trained), table).head(own.astype(np.int64), rng)
        both = (counts.take(each) for each in (inside, some[outside]))
        found.append(Split(head.scores, *(from_sums(head, sums(head, each), each.vectors) for each in both)))
    return found


def choose(found: list[Split]) -> Mix:
    """The mean of the mixes whose mean AUROC is within `NEAR_BEST` of the best: as good where it was chosen, and steadier elsewhere."""
    spread = np.mean([each.inside.std(axis=0) for each in found], axis=0) + 1e-6
    names = found[0].names
    tried = list(_shares(len(names)))
    reached = np.array([_mean(found, shares / spread, auroc) for shares in tried])
    best = np.mean([shares for shares, each in zip(tried, reached, strict=True) if each >= reached.max() - NEAR_BEST], axis=0)
    weights = np.asarray(best / spread, np.float32)
    singles = {name: _mean(found, row, auroc) for name, row in zip(names, np.eye(len(names)), strict=True)}
    shares = dict(zip(names, map(float, best), strict=True))
    return Mix(shares, weights, _mean(found, weights, auroc), _mean(found, weights, fpr95), singles)


def auroc(inside: NDArray[np.floating], outside: NDArray[np.floating]) -> float:
    """Chance, in percent, that one from outside scores above one from inside; ties count half."""
    ordered = np.sort(inside)
    below = np.searchsorted(ordered, outside, "left") + np.searchsorted(ordered, outside, "right")
    return float(below.mean() / (2 * len(inside)) * 100)


def fpr95(inside: NDArray[np.floating], outside: NDArray[np.floating]) -> float:
    """Share of those from outside, in percent, that is let in where 95 % of those from inside are."""
    return float((outside <= np.quantile(inside, 0.95)).mean() * 100)


def _mean(found: list[Split], weights: NDArray[np.floating], measure: Callable[[Floats, Floats], float]) -> float:
    return float(np.mean([measure(each.inside @ weights, each.outside @ weights) for each in found]))


def _shares(count: int) -> Iterator[NDArray[np.float64]]:
    for steps in product(range(MIX_STEPS + 1), repeat=count):
        if sum(steps) == MIX_STEPS:
            yield np.array(steps) / MIX_STEPS
