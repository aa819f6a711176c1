"""Vector to energy: the scores of one text by a fitted head, and the one score they are mixed to.

Every score rises with OOD. All of them are made of one linear map of the features, so what a word adds is computed once and
kept; the rest is a few small numpy calls. The same text always gives the same bits, kept words or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from policies.ood.encoded import ENCODED, Encoded, encoded_scores
from policies.ood.new_words import NewWords
from policies.ood.wordpiece import WordPieces
from policies.ood.words import KEPT_WORDS_MAX, TooDearError, WordRows

Floats: TypeAlias = NDArray[np.float32]
Status: TypeAlias = Literal["ok", "unavailable", "dear"]
"""`unavailable`: no text, or one without a word or sign. `dear`: not scored, since it would cost more than it may."""

SCORES = ("energy", "joint_energy", "surprise", "distance", "unseen")
"""In order: energy of the softmax head; energy of the one-against-all heads; -log of the largest softmax probability; one minus
the cosine to the nearest prototype; share of the text that no training text had."""
MEANING = "meaning"
"""A further score of a detector that was fitted with a pretrained table: energy of a small network over the sum of the vectors."""
_SHORTEST = np.float32(1e-9)
"""Of a projection, so that none is divided by nothing."""


class Head(NamedTuple):
    """What was trained. K classes, D projected dimensions; `weights` are float16 in the file, float32 here."""

    idf: Floats
    """(FEATURES,): the weight of each column."""
    seen: Floats
    """(FEATURES,): 1 where a training text had the column, else 0."""
    weights: Floats
    """(FEATURES, 2K + D + M): softmax head, one-against-all heads, projection; 0 where not seen, and scaled by `idf` already. The
    last M, of words and pairs alone, go into the network."""
    bias: Floats
    """(2K,)"""
    prototypes: Floats
    """(P, D), of unit length."""
    mix: Floats
    """(len(scores),): the weight of each score in the mix, its scale included."""
    vocabulary: tuple[str, ...]
    """The V pieces of the pretrained table; none where there is none."""
    vectors: Floats
    """(V, M): what each piece adds to the network's input, scaled by its inverse document frequency already."""
    hidden: Floats
    """(M + 1, H): the network's hidden layer, bias last."""
    out: Floats
    """(H + 1, K): its logits, bias last."""
    encoded: Encoded
    """What a sentence encoder's vectors are judged by; empty without one."""

    @property
    def classes(self) -> int:
        return len(self.bias) // 2

    @property
    def scores(self) -> tuple[str, ...]:
        """The names of its scores, in order."""
        return SCORES + ((MEANING,) if self.vocabulary else ()) + (ENCODED if self.encodes else ())

    @property
    def encodes(self) -> bool:
        """Whether a scorer needs an encoder too: milliseconds a text, in a process of its own."""
        return len(self.encoded.near) > 0


class Scored(NamedTuple):
    """The scores of one text. NaN where it is not "ok"."""

    energy: float
    score: float
    status: Status


UNAVAILABLE = Scored(float("nan"), float("nan"), "unavailable")
DEAR = Scored(float("nan"), float("nan"), "dear")


class Scorer:
    """Scores texts by a head. Keeps what it computed for words, up to a limit; not for use by several threads at once."""

    def __init__(self, head: Head, encode: Callable[[str], Floats] | None = None, kept: int = KEPT_WORDS_MAX) -> None:
        """`encode`: a text to its unit vector, by the encoder that the head was fitted with. `kept`: the words that are kept. Raises
        ValueError where the encoder is missing."""
        if head.encodes and encode is None:
            raise ValueError("the detector was fitted with a sentence encoder, and there is none here")
        self._encode = encode if head.encodes else None
        self._pieces = WordPieces(head.vocabulary) if head.vocabulary else None
        columns, width = head.weights.shape[1], head.vectors.shape[1]
        self._inputs = slice(columns - width, columns)
        # A column of each squared norm beside the weights, so that one sum over words gives everything.
        square = head.idf * head.idf
        self._words = WordRows(columns + 2, self._added, kept)
        rows = self._words.columns
        rows[:, :columns] = head.weights
        rows[:, columns] = square * head.seen
        rows[:, columns + 1] = square
        self._new = NewWords(rows)
        self._head = head._replace(weights=head.weights[:0].copy())  # they stand in the rows, and are megabytes
        self.row_bytes = 4 * (columns + 2)
        """What is fetched from memory for a word that was met before, and for a pair of words."""

    def score(self, text: str | None, vector: Floats | None = None) -> Scored:
        """The energy and the mixed score; `unavailable` for no text, or one without a single word or sign. `vector`: the encoder's of
        this text, where it is known already."""
        return self._scored(self.scores(text, vector) if text is not None else None)

    def score_within(self, text: str | None, rows_max: int) -> Scored:
        """The same where it costs no more than to fetch `rows_max` rows, else `dear`. Not with an encoder."""
        try:
            total = self._words.sum(text, rows_max) if text is not None else None
        except TooDearError:
            return DEAR
        return self._scored(None if total is None else from_sum(self._head, total))

    def _scored(self, scores: Floats | None) -> Scored:
        return UNAVAILABLE if scores is None else Scored(float(scores[0]), float(scores @ self._head.mix), "ok")

    def scores(self, text: str, vector: Floats | None = None) -> Floats | None:
        """All of the head's scores, or None for a text without a word or sign."""
        total = self._words.sum(text)
        if total is None:
            return None
        if self._encode is None:
            return from_sum(self._head, total)
        row: Floats = from_sums(self._head, total[None], (self._encode(text) if vector is None else vector)[None])[0]
        return row

    def _added(self, words: Sequence[str], hashes: Sequence[int]) -> Floats:
        """(n, W): what each word adds. Shorter ones come first, with the CRC of each."""
        rows = self._new.rows(words, hashes)
        if self._pieces:
            for word, row in zip(words, rows, strict=True):
                if numbers := self._pieces.numbers(word):
                    row[self._inputs] += np.add.reduce(self._head.vectors[numbers])
        return rows


def from_sum(head: Head, total: Floats) -> Floats:
    """(len(SCORES) or one more,): the scores of one text by its summed rows (W,), but those of an encoder. What `from_sums` says of that
    text alone, to the last bit, in half of its time."""
    classes = head.classes
    logits = total[: 2 * classes] / np.sqrt(total[-1]) + head.bias
    softmax = logits[:classes]
    top = np.maximum.reduce(softmax)
    energy = -(top + np.log(np.add.reduce(np.exp(softmax - top))))
    joint = -np.add.reduce(np.logaddexp(0, logits[classes:]))
    end = head.weights.shape[1] - head.vectors.shape[1]
    place = total[2 * classes : end]
    length = np.sqrt(np.add.reduce(np.square(place)))
    nearest = np.maximum.reduce(head.prototypes @ place) / max(length, _SHORTEST)
    scores = [energy, joint, -top - energy, 1 - nearest, 1 - total[-2] / total[-1]]
    if head.vocabulary:
        further = network_logits(total[None, end:-2], head.hidden, head.out)[3]
        scores.append(-logsumexp(further, further.max(axis=1))[0])
    return np.array(scores, np.float32)


def from_sums(head: Head, sums: Floats, vectors: Floats | None = None) -> Floats:
    """(n, len(head.scores)) from the summed rows of n texts: weights first, then the squared norms of what was seen and of all;
    and from an encoder's `vectors` (n, E) where the head has one."""
    classes = head.classes
    norm = np.sqrt(sums[:, -1:])
    logits = sums[:, : 2 * classes] / norm + head.bias
    softmax, against = logits[:, :classes], logits[:, classes:]
    top = softmax.max(axis=1)
    energy = -logsumexp(softmax, top)
    joint = -np.logaddexp(0, against).sum(axis=1)
    end = head.weights.shape[1] - head.vectors.shape[1]
    place = sums[:, 2 * classes : end]
    length = np.sqrt(np.square(place).sum(axis=1))
    nearest = (head.prototypes @ place.T).max(axis=0) / np.maximum(length, _SHORTEST)
    unseen = 1 - sums[:, -2] / sums[:, -1]
    scores = [energy, joint, -top - energy, 1 - nearest, unseen]
    if head.vocabulary:
        further = network_logits(sums[:, end:-2], head.hidden, head.out)[3]
        scores.append(-logsumexp(further, further.max(axis=1)))
    found = np.stack(scores, axis=1).astype(np.float32)
    return found if vectors is None or not head.encodes else np.hstack([found, encoded_scores(head.encoded, vectors)])


def network_logits(inputs: Floats, hidden: Floats, out: Floats, mask: Floats | None = None) -> tuple[Floats, Floats, Floats, Floats]:
    """Inputs (n, M) scaled to one length, their lengths, the hidden units (times `mask`), and the logits (n, K)."""
    length = np.sqrt(np.square(inputs).sum(axis=1, keepdims=True)) + np.float32(1e-6)
    scaled = inputs * (np.float32(inputs.shape[1] ** 0.5) / length)
    active = np.maximum(scaled @ hidden[:-1] + hidden[-1], 0)
    if mask is not None:
        active = active * mask
    return scaled, length, active, active @ out[:-1] + out[-1]


def logsumexp(logits: NDArray[np.floating], top: NDArray[np.floating]) -> Floats:
    """(n,) of logits (n, K), whose largest are `top`."""
    return np.asarray(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)), np.float32)
