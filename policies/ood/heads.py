"""Trains linear heads by L-BFGS, over rows that are sparse (hashed features) or dense (an encoder's vectors)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import minimize

from policies.ood.energy import Floats, logsumexp

Labels: TypeAlias = NDArray[np.int64]
Kind: TypeAlias = Literal["softmax", "against"]
Rows: TypeAlias = sparse.csr_matrix | Floats
Loss: TypeAlias = Callable[[Floats], tuple[float, Floats]]
"""From logits (n, K) to a loss and its slope by them."""

STEPS_MAX = 50
"""L-BFGS steps of a head over hashed features. Stopping early is most of its regularisation."""
ENCODED_STEPS_MAX = 100
L2 = 1e-6
ENCODED_L2 = 1e-5
MARGIN_STEPS_MAX = 20
MARGIN_WEIGHT = 0.1


def linear(x: Rows, labels: Labels, kind: Kind) -> Floats:
    """(columns + 1, K): a linear head by L-BFGS, its bias last. `against`: K heads, each its class against all others."""
    classes = int(labels.max()) + 1
    start = np.zeros((x.shape[1] + 1, classes), np.float32)
    if kind == "against":
        start[-1] = -np.log(max(classes - 1, 1))
    target = np.zeros((len(labels), classes), np.float32)
    target[np.arange(len(labels)), labels] = 1
    objective = _softmax_loss if kind == "softmax" else _against_loss
    return _descend(x, start, lambda logits: objective(logits, target), ENCODED_STEPS_MAX if isinstance(x, np.ndarray) else STEPS_MAX)


def with_margin(x: Rows, labels: Labels, start: Floats, outliers: Rows) -> Floats:
    """The softmax head, trained on so that the energies of outliers stand a margin above those of training texts (Liu et al. 2020)."""
    target = np.zeros((len(labels), start.shape[1]), np.float32)
    target[np.arange(len(labels)), labels] = 1
    energy = -_logsumexp(x @ start[:-1] + start[-1])
    inner = float(energy.mean())
    outer = inner + 4 * float(energy.std())
    count, others = len(labels), outliers.shape[0]

    def loss(logits: Floats) -> tuple[float, Floats]:
        value, slope = _softmax_loss(logits[:count], target)
        energies = -_logsumexp(logits)
        over = np.maximum(energies[:count] - inner, 0)
        under = np.maximum(outer - energies[count:], 0)
        value += MARGIN_WEIGHT * float((over**2).mean() + (under**2).mean())
        # dE/dlogits = -softmax
        pull = np.concatenate([over / count, -under / others]) * (-2 * MARGIN_WEIGHT)
        full = np.exp(logits + energies[:, None]) * pull[:, None]
        full[:count] += slope
        return value, full

    both = np.vstack([x, outliers]) if isinstance(x, np.ndarray) else sparse.vstack([x, outliers]).tocsr()
    return _descend(both, start, loss, MARGIN_STEPS_MAX)


def _logsumexp(logits: Floats) -> Floats:
    return logsumexp(logits, logits.max(axis=1))


def _softmax_loss(logits: Floats, target: Floats) -> tuple[float, Floats]:
    """Mean cross-entropy, and its slope by the logits."""
    energy = -_logsumexp(logits)
    value = -float((energy + (logits * target).sum(axis=1)).mean())
    return value, np.asarray((np.exp(logits + energy[:, None]) - target) / len(logits), np.float32)


def _against_loss(logits: Floats, target: Floats) -> tuple[float, Floats]:
    """Mean over texts of the summed binary cross-entropies, and its slope."""
    exponent = np.exp(-np.abs(logits))
    value = float((np.maximum(logits, 0) - logits * target + np.log1p(exponent)).sum(axis=1).mean())
    chance = np.where(logits >= 0, 1, exponent) / (1 + exponent)
    return value, np.asarray((chance - target) / len(logits), np.float32)


def _descend(x: Rows, start: Floats, loss: Loss, steps_max: int) -> Floats:
    """Minimise loss(x W + b) + l2/2 |W|^2 over columns that `x` has; the others stay 0."""
    if isinstance(x, np.ndarray):
        l2, used, turned = ENCODED_L2, np.arange(x.shape[1]), x.T
    else:
        l2, used = L2, np.flatnonzero(np.bincount(x.indices, minlength=x.shape[1]))
        x = x[:, used].tocsr()
        turned = x.T.tocsr()
    classes = start.shape[1]

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        at = flat.astype(np.float32).reshape(-1, classes)
        value, slope = loss(x @ at[:-1] + at[-1])
        gradient = np.vstack([turned @ slope + l2 * at[:-1], slope.sum(axis=0)])
        return value + 0.5 * l2 * float(np.square(at[:-1]).sum()), gradient.astype(np.float64).ravel()

    first = np.vstack([start[used], start[-1:]]).ravel()
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options={"maxiter": steps_max, "maxcor": 8})
    result = np.zeros_like(start)
    result[used] = (best := found.x.astype(np.float32).reshape(-1, classes))[:-1]
    result[-1] = best[-1]
    return result
