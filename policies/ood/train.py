"""Trains the head: from texts as sparse rows to weights, a projection and prototypes. scipy is imported here and in `fit` only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from policies.ood import network
from policies.ood.encoded import SCALE, Encoded, distances, nothing
from policies.ood.encoder import Encoder
from policies.ood.energy import Floats, Head
from policies.ood.features import CHAR_BITS, FEATURES, pieces, word_columns
from policies.ood.heads import Labels, linear, with_margin
from policies.ood.table import NO_TABLE, Table
from policies.ood.wordpiece import WordPieces

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
    vectors: Floats
    """(n, E): unit vectors by a sentence encoder; E is 0 without one."""

    def take(self, texts: NDArray[np.int64]) -> Counts:
        return Counts(self.times[texts], self.squares[texts], self.pieces[texts], self.vectors[texts])

    def lengths(self, idf: Floats) -> Floats:
        """(n,): the length of each text's weighted row."""
        return np.asarray(np.sqrt(self.squares @ (idf * idf)), np.float32)


def count(texts: Sequence[str], vocabulary: Sequence[str] = (), encoder: Encoder | None = None) -> Counts:
    """Texts to columns, to pieces of a vocabulary, and to vectors. A blank text is an empty row."""
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
    vectors = encoder.encode_all(texts) if encoder else np.zeros((len(texts), 0), np.float32)
    words_of = _summed(np.ones(len(numbers), np.float32), numbers, ends, len(vocabulary))
    times_of, squares = (_summed(each, columns, starts, FEATURES) for each in (data, data * data))
    return Counts(times_of, squares, words_of, vectors)


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
            self._encoded(labels, outliers),
        )

    def _encoded(self, labels: Labels, outliers: Counts | None) -> Encoded:
        vectors = self._counts.vectors
        classes = int(labels.max()) + 1
        if not vectors.shape[1]:
            return nothing(classes)
        head = linear(vectors * SCALE, labels, "softmax")
        if outliers is not None:
            head = with_margin(vectors * SCALE, labels, head, outliers.vectors * SCALE)
        return distances(vectors, labels, head)

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
