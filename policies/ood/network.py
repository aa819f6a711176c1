"""Trains the network behind the score `meaning`: the sum of a text's vectors, of one length, through one hidden layer to logits.

The vectors of pieces start as the pretrained table says and are trained on; those of pieces that no training text has stay as
they are, and so land where their neighbours are. In numpy, by Adam, in some seconds for 10,000 texts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from policies.ood.energy import Floats, network_logits

HIDDEN = 384
EPOCHS = 16
STEPS_MIN = 400
"""Few texts are looked at more often."""
BATCH = 128
RATE = 1e-3
WARM_STEPS = 100
DROPPED = 0.3
"""Of the hidden units, in training."""
DROPPED_INPUTS = 0.3
"""Of a text's pieces, words and pairs, in training."""
_DECAY, _DECAY_SQUARES = np.float32(0.9), np.float32(0.999)


class Network(NamedTuple):
    """What was trained, K classes, H hidden units, D wide."""

    inputs: Floats
    """(columns, D)"""
    hidden: Floats
    """(D + 1, H), bias last."""
    out: Floats
    """(H + 1, K), bias last."""


class _Adam:
    """Adam (Kingma & Ba 2014) over one array, or over the rows of it that a batch had."""

    def __init__(self, values: Floats) -> None:
        self.values = values
        self._mean = np.zeros_like(values)
        self._square = np.zeros_like(values)

    def step(self, slope: Floats, rate: float, number: int, rows: slice | NDArray[np.int64] = slice(None)) -> None:
        mean = self._mean[rows] = self._mean[rows] * _DECAY + slope * (1 - _DECAY)
        square = self._square[rows] = self._square[rows] * _DECAY_SQUARES + slope * slope * (1 - _DECAY_SQUARES)
        scale = np.sqrt(square / np.float32(1 - _DECAY_SQUARES**number)) + np.float32(1e-8)
        self.values[rows] -= np.float32(rate / (1 - _DECAY**number)) * mean / scale


def train(x: sparse.csr_matrix, labels: NDArray[np.int64], start: Floats, rng: np.random.Generator) -> Network:
    """On rows `x` (n, columns) of classes 0..K-1, from the vectors `start` (columns, D), which it does not change."""
    count, width = x.shape[0], start.shape[1]
    classes = int(labels.max()) + 1
    # Only what the texts have is trained; the rest of the table is as big as a vocabulary.
    used = np.flatnonzero(np.bincount(x.indices, minlength=x.shape[1]))
    x = x[:, used].tocsr()
    hidden = (rng.standard_normal((width + 1, HIDDEN)) * np.sqrt(2 / width)).astype(np.float32)
    out = (rng.standard_normal((HIDDEN + 1, classes)) * np.sqrt(1 / HIDDEN)).astype(np.float32)
    hidden[-1], out[-1] = 0, 0
    parts = [_Adam(start[used].copy()), _Adam(hidden), _Adam(out)]
    batch = min(BATCH, count)
    batches = count // batch
    epochs = max(EPOCHS, -(-STEPS_MIN // batches))
    number = 0
    for _ in range(epochs):
        order = rng.permutation(count)
        for at in range(batches):
            some = order[at * batch : (at + 1) * batch]
            number += 1
            rate = RATE * min(1, number / WARM_STEPS) * (1 - (number - 1) / (epochs * batches))
            _step(parts, x[some], labels[some], rng, rate, number)
    inputs = start.copy()
    inputs[used] = parts[0].values
    return Network(inputs, parts[1].values, parts[2].values)


def _step(parts: list[_Adam], x: sparse.csr_matrix, labels: NDArray[np.int64], rng: np.random.Generator, rate: float, number: int) -> None:
    inputs, hidden, out = (each.values for each in parts)
    count, width = x.shape[0], inputs.shape[1]
    kept = x.data * (rng.random(len(x.data), np.float32) > DROPPED_INPUTS)
    x = sparse.csr_matrix((kept, x.indices, x.indptr), x.shape)
    mask = (rng.random((count, HIDDEN), np.float32) > DROPPED).astype(np.float32) / np.float32(1 - DROPPED)
    place = np.asarray(x @ inputs)
    scaled, length, active, logits = network_logits(place, hidden, out, mask)
    chance = np.exp(logits - logits.max(axis=1, keepdims=True))
    chance /= chance.sum(axis=1, keepdims=True)
    chance[np.arange(count), labels] -= 1
    slope = chance / np.float32(count)
    back = (slope @ out[:-1].T) * mask * (active > 0)
    inner = back @ hidden[:-1].T
    # Through the scaling to one length: only what is across the vector passes.
    across = (inner - scaled * (inner * scaled).sum(axis=1, keepdims=True) / np.float32(width)) / length * np.float32(width**0.5)
    rows = np.unique(x.indices)
    parts[2].step(np.vstack([active.T @ slope, slope.sum(axis=0)]), rate, number)
    parts[1].step(np.vstack([scaled.T @ back, back.sum(axis=0)]), rate, number)
    parts[0].step(np.asarray(x[:, rows].T @ across), rate, number, rows)
