"""Trains the head: from texts as sparse rows to weights, a projection and prototypes. scipy is imported here and in `fit` only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import minimize

from policies.ood import network
from policies.ood.energy import Floats, Head, logsumexp
from policies.ood.features import CHAR_BITS, FEATURES, pieces, word_columns
from policies.ood.table import Table
from policies.ood.wordpiece import WordPieces

Labels: TypeAlias = NDArray[np.int64]
Kind: TypeAlias = Literal["softmax", "against"]
Loss: TypeAlias = Callable[[Floats], tuple[float, Floats]]
"""From logits (n, K) to a loss and its slope by them."""

STEPS_MAX = 50
"""L-BFGS steps of a head. Stopping early is most of its regularisation."""
L2 = 1e-6
MARGIN_STEPS_MAX = 20
MARGIN_WEIGHT = 0.1
NO_TABLE = Table((), np.zeros((0, 0), np.float32))
PROJECTED = 96
PROJECTION_TEXTS_MAX = 4_000
PROTOTYPES_MAX = 768
CLUSTERS_MAX = 64
CLUSTER_TEXTS_MIN = 20
"""Texts a cluster should have, where there are enough: so few texts make few clusters."""
_ROUNDS = 8


class Counts(NamedTuple):
    """The columns of n texts, (n, FEATURES) each."""

    times: sparse.csr_matrix
    """How often."""
    squares: sparse.csr_matrix
    """The sum over words of the squared times in each: squared lengths add up word by word, as in a scorer."""
    pieces: sparse.csr_matrix
    """(n, V): how often a piece of the pretrained table is in the words; V is 0 without one."""

    def take(self, texts: NDArray[np.int64]) -> Counts:
        return Counts(self.times[texts], self.squares[texts], self.pieces[texts])

    def lengths(self, idf: Floats) -> Floats:
        """(n,): the length of each text's weighted row."""
        return np.asarray(np.sqrt(self.squares @ (idf * idf)), np.float32)


def count(texts: Sequence[str], vocabulary: Sequence[str] = ()) -> Counts:
    """Texts to columns, and to pieces of a vocabulary. A blank text is an empty row."""
    words: dict[str, tuple[list[int], list[int]]] = {}
    splitter = WordPieces(vocabulary) if vocabulary else None
    numbers: list[int] = []
    ends = [0]
    columns: list[int] = []
    times: list[int] = []
    starts = [0]
    for text in texts:
        found = pieces(text)
        for word in found.words:
            if word not in words:
                counted = Counter(word_columns(word))
                words[word] = list(counted), list(counted.values())
            columns += words[word][0]
            times += words[word][1]
            if splitter:
                numbers += splitter.numbers(word)
        columns += found.pairs
        times += [1] * len(found.pairs)
        starts.append(len(columns))
        ends.append(len(numbers))
    data = np.array(times, np.float32)
    words_of = _summed(np.ones(len(numbers), np.float32), numbers, ends, len(vocabulary))
    return Counts(*(_summed(each, columns, starts, FEATURES) for each in (data, data * data)), words_of)


def _summed(data: Floats, columns: list[int], starts: list[int], width: int) -> sparse.csr_matrix:
    matrix = sparse.csr_matrix((data, np.array(columns, np.int32), np.array(starts)), (len(starts) - 1, width))
    matrix.sum_duplicates()
    return matrix


class Trainer:
    """Training texts, weighted and scaled to unit length as a scorer does, and what is trained on them."""

    def __init__(self, counts: Counts, table: Table = NO_TABLE) -> None:
        self._counts, self._table = counts, table
        having = np.bincount(counts.times.indices, minlength=FEATURES)
        self.idf: Floats = (np.log((1 + counts.times.shape[0]) / (1 + having)) + 1).astype(np.float32)
        self.seen: Floats = (having > 0).astype(np.float32)
        self.x = self.scaled(counts)

    def scaled(self, counts: Counts) -> sparse.csr_matrix:
        """Other texts' rows, weighted and scaled in the same way."""
        scale = 1 / np.maximum(counts.lengths(self.idf), np.float32(1e-9))
        return (sparse.diags(scale) @ counts.times @ sparse.diags(self.idf)).tocsr().astype(np.float32)

    def head(self, labels: Labels, rng: np.random.Generator, outliers: Counts | None = None) -> Head:
        """A head for labels 0..K-1, without a mix yet. Its weights are as exact as float16, so that a file gives the same bits."""
        softmax = linear(self.x, labels, "softmax")
        if outliers is not None:
            softmax = with_margin(self.x, labels, softmax, self.scaled(outliers))
        against = linear(self.x, labels, "against")
        projection = project(self.x, rng)
        place = self.x @ projection
        weights = np.hstack([softmax[:-1], against[:-1], projection]) * (self.idf * self.seen)[:, None]
        vectors, further, net = self._network(labels, rng)
        return Head(
            self.idf,
            self.seen,
            _rounded(np.hstack([weights, further])),
            np.concatenate([softmax[-1], against[-1]]),
            prototypes(place, labels, rng),
            np.zeros(0, np.float32),
            self._table.vocabulary,
            _rounded(vectors),
            net.hidden,
            net.out,
        )

    def _network(self, labels: Labels, rng: np.random.Generator) -> tuple[Floats, Floats, network.Network]:
        """What pieces add to the network's input, (V, M), what columns add, (FEATURES, M), and the network; empty without a table."""
        start = self._table.vectors
        if not self._table.vocabulary:
            none = np.zeros((1, 0), np.float32)
            return start, np.zeros((FEATURES, 0), np.float32), network.Network(start, none, none)
        counts = self._counts
        texts, known = counts.pieces.shape
        having = np.bincount(counts.pieces.indices, minlength=known)
        idf = (np.log((1 + texts) / (1 + having)) + 1).astype(np.float32)
        signs = 1 << CHAR_BITS
        x = sparse.hstack([counts.pieces @ sparse.diags(idf), counts.times[:, signs:]]).tocsr().astype(np.float32)
        found = network.train(x, labels, np.vstack([start, np.zeros((FEATURES - signs, start.shape[1]), np.float32)]), rng)
        further = np.vstack([np.zeros((signs, start.shape[1]), np.float32), found.inputs[known:]])
        return found.inputs[:known] * idf[:, None], further, found


def sums(head: Head, counts: Counts) -> Floats:
    """What `policies.ood.energy.from_sums` takes, for many texts at once (a scorer's up to rounding)."""
    norms = np.stack([counts.lengths(head.idf * head.seen), counts.lengths(head.idf)], axis=1)
    linear = counts.times @ head.weights
    if head.vocabulary:
        linear[:, -head.vectors.shape[1] :] += counts.pieces @ head.vectors
    return np.hstack([linear, norms * norms]).astype(np.float32)


def _rounded(values: Floats) -> Floats:
    """As exact as a file keeps it."""
    return values.astype(np.float16).astype(np.float32)


def linear(x: sparse.csr_matrix, labels: Labels, kind: Kind) -> Floats:
    """(FEATURES + 1, K): a linear head by L-BFGS, its bias last. `against`: K heads, each its class against all others."""
    classes = int(labels.max()) + 1
    start = np.zeros((x.shape[1] + 1, classes), np.float32)
    if kind == "against":
        start[-1] = -np.log(max(classes - 1, 1))
    target = np.zeros((len(labels), classes), np.float32)
    target[np.arange(len(labels)), labels] = 1
    objective = _softmax_loss if kind == "softmax" else _against_loss
    return _descend(x, start, lambda logits: objective(logits, target), STEPS_MAX)


def with_margin(x: sparse.csr_matrix, labels: Labels, start: Floats, outliers: sparse.csr_matrix) -> Floats:
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

    return _descend(sparse.vstack([x, outliers]).tocsr(), start, loss, MARGIN_STEPS_MAX)


def project(x: sparse.csr_matrix, rng: np.random.Generator) -> Floats:
    """(FEATURES, D): the leading right singular vectors of (some of) the rows, by a randomised range finder."""
    texts = x.shape[0]
    if texts > PROJECTION_TEXTS_MAX:
        x = x[np.sort(rng.choice(texts, PROJECTION_TEXTS_MAX, replace=False))]
    wide = min(PROJECTED + 16, *x.shape)
    found = rng.standard_normal((x.shape[1], wide)).astype(np.float32)
    for _ in range(3):
        found = np.linalg.qr(x.T @ (x @ found))[0]
    _, _, right = np.linalg.svd(x @ found, full_matrices=False)
    projection: Floats = np.ascontiguousarray((found @ right.T)[:, :PROJECTED], np.float32)
    return projection


def prototypes(place: Floats, labels: Labels, rng: np.random.Generator) -> Floats:
    """Unit vectors that stand for the training texts: a few means of each class, by k-means on the sphere."""
    unit = _unit(place)
    classes = int(labels.max()) + 1
    each = max(1, PROTOTYPES_MAX // classes)
    return np.vstack([_means(unit[labels == k], each, rng)[0] for k in range(classes) if (labels == k).any()])


def clusters(x: sparse.csr_matrix, rng: np.random.Generator) -> Labels:
    """Labels for texts that have none: clusters of their projections."""
    unit = _unit(np.asarray(x @ project(x, rng)))
    count = int(np.clip(len(unit) // CLUSTER_TEXTS_MIN, 4, CLUSTERS_MAX))
    _, labels = _means(unit, count, rng)
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _means(unit: Floats, count: int, rng: np.random.Generator) -> tuple[Floats, Labels]:
    """k-means by cosine: at most `count` unit vectors, and the nearest of them for each row."""
    if len(unit) <= count:
        return unit, np.arange(len(unit))
    centres = unit[rng.choice(len(unit), count, replace=False)]
    for _ in range(_ROUNDS):
        nearest = np.argmax(unit @ centres.T, axis=1)
        total = np.zeros_like(centres)
        np.add.at(total, nearest, unit)
        empty = np.bincount(nearest, minlength=count) == 0
        centres = _unit(np.where(empty[:, None], centres, total))
    return centres, np.argmax(unit @ centres.T, axis=1)


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-9), np.float32)


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


def _descend(x: sparse.csr_matrix, start: Floats, loss: Loss, steps_max: int) -> Floats:
    """Minimise loss(x W + b) + L2/2 |W|^2 over columns that `x` has; the others stay 0."""
    used = np.flatnonzero(np.bincount(x.indices, minlength=x.shape[1]))
    x = x[:, used].tocsr()
    turned = x.T.tocsr()
    classes = start.shape[1]

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        at = flat.astype(np.float32).reshape(-1, classes)
        value, slope = loss(x @ at[:-1] + at[-1])
        gradient = np.vstack([turned @ slope + L2 * at[:-1], slope.sum(axis=0)])
        return value + 0.5 * L2 * float(np.square(at[:-1]).sum()), gradient.astype(np.float64).ravel()

    first = np.vstack([start[used], start[-1:]]).ravel()
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options={"maxiter": steps_max, "maxcor": 8})
    result = np.zeros_like(start)
    result[used] = (best := found.x.astype(np.float32).reshape(-1, classes))[:-1]
    result[-1] = best[-1]
    return result
