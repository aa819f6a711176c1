"""Scores of a sentence encoder's vectors: energy of a softmax head over them, and relative Mahalanobis distance (Ren et al. 2021)."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]

ENCODED = ("encoder_energy", "encoder_distance")
SCALE = np.float32(10)
"""Unit vectors times this go into the head."""
_RIDGE = 1e-6
"""Of the trace, added to a covariance: few texts do not fill the space."""


class Encoded(NamedTuple):
    """What was trained on vectors of E numbers, of K classes; empty, E = 0, in a detector without an encoder."""

    encoded_head: Floats
    """(E + 1, K), bias last."""
    near: Floats
    """(E, E): scales a vector by what the classes vary in."""
    near_means: Floats
    """(K, E): the classes' means, so scaled."""
    wide: Floats
    """(E, E): scales a vector by what all texts vary in."""
    wide_mean: Floats
    """(E,): the mean of all texts, so scaled."""


def nothing(classes: int) -> Encoded:
    """For a detector without an encoder."""
    empty = np.zeros((0, 0), np.float32)
    return Encoded(np.zeros((1, classes), np.float32), empty, np.zeros((classes, 0), np.float32), empty, np.zeros(0, np.float32))


def distances(vectors: Floats, labels: NDArray[np.int64], head: Floats) -> Encoded:
    """Means and scales of training vectors (n, E), of classes 0..K-1, beside a head that was trained on them."""
    exact = vectors.astype(np.float64)
    means = np.stack([exact[labels == k].mean(axis=0) for k in range(int(labels.max()) + 1)])
    near, wide = _scale(exact - means[labels]), _scale(exact - exact.mean(axis=0))
    found = (head, near, means @ near, wide, exact.mean(axis=0) @ wide)
    return Encoded(*(np.asarray(each, np.float32) for each in found))


def encoded_scores(of: Encoded, vectors: Floats) -> Floats:
    """(n, len(ENCODED)) of unit vectors (n, E); both rise with OOD."""
    logits = vectors @ of.encoded_head[:-1] * SCALE + of.encoded_head[-1]
    top = logits.max(axis=1)
    energy = -(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)))
    place = vectors @ of.near
    squares = np.square(place).sum(axis=1)[:, None] - 2 * place @ of.near_means.T + np.square(of.near_means).sum(axis=1)
    around = np.square(vectors @ of.wide - of.wide_mean).sum(axis=1)
    return np.stack([energy, squares.min(axis=1) - around], axis=1).astype(np.float32)


def _scale(apart: NDArray[np.float64]) -> NDArray[np.float64]:
    """(E, E): after it, differences like these have unit covariance."""
    covariance = apart.T @ apart / len(apart)
    values, directions = np.linalg.eigh(covariance)
    return np.asarray(directions / np.sqrt(np.maximum(values, 0) + _RIDGE * max(values.sum(), 1e-12)))
