"""The words of a text to one row: what its distinct words and pairs of words add up to, from what was kept of texts before.

The same sum, to the last bit, as over `policies.ood.features.pieces` one by one, but by a few numpy calls a text: a word is a number,
its row stands in one array with those of all pairs, and the column of a pair is looked up, not hashed.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from typing import TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from policies.ood.features import CHAR_BITS, FEATURES, WORD_BITS, WORD_CHARS_MAX, words_in
from policies.ood.text import TEXT_CHARS_MAX, bounded

Floats: TypeAlias = NDArray[np.float32]

KEPT_WORDS_MAX = 16_384
"""Words whose rows are kept. Where there is no room, the half that was met last stays."""
KEPT_RUNS_CHARS_MAX = 1 << 20
"""Characters of the runs without blanks whose words are kept, and `_RUN_CHARS` for each run; with more, they are forgotten."""
_RUN_CHARS = 32
_TEXT_WORDS_MAX = 2 * TEXT_CHARS_MAX
"""Words of a text: lower case may have twice its characters."""
_WORD_BYTES_MAX = 4 * WORD_CHARS_MAX
_WORD_MASK = (1 << WORD_BITS) - 1
_WORDS_AT_ONCE = 16
"""New ones: their columns' rows are copied, up to 130 of each."""
_BYTE_ROWS = 256 * np.arange(4)
_UP = np.arange(2 * _TEXT_WORDS_MAX, dtype=np.uint16)
_DOWN = _UP[::-1].copy()


class WordRows:
    """Rows (W wide) of columns, and of the words that were met. Not for use by several threads at once."""

    def __init__(self, width: int, added: Callable[[Sequence[str]], Floats], most: int = KEPT_WORDS_MAX) -> None:
        """`added`: what each of n words adds, (n, W). `most`: words that are kept, at least twice what one text may have, and no more than
        two bytes can number."""
        if not 2 * _TEXT_WORDS_MAX <= most <= 1 << 16:
            raise ValueError(f"{most} words to keep: it must be {2 * _TEXT_WORDS_MAX} to {1 << 16}")
        self._added = added
        self._rows: Floats = np.empty((FEATURES + most, width), np.float32)
        self.columns = self._rows[:FEATURES]
        """(FEATURES, W): the row of each column, for the owner to fill in."""
        self._words: dict[str, int] = {}
        """Of each word its place; its row stands at FEATURES + place."""
        self._free = list(range(most))[::-1]
        self._runs: dict[str, bytes] = {}
        """The places of the words of a run without blanks, as it stands in lower case; two bytes each."""
        self._runs_chars = 0
        self._followed = np.empty((most, _WORD_BYTES_MAX + 1), np.uint16)
        """Of a place: what it adds to the hash of a pair that it begins, by the bytes of the second word."""
        self._bytes = np.empty(most, np.intp)
        self._ends = np.empty(most, np.uint16)
        """Of a place: what it adds to the column of a pair that it ends."""
        self._texts = 0
        self._met = np.zeros(most, np.int64)
        """Of a place: the number of the text that had it last."""
        self._first = np.empty(FEATURES + most, np.uint16)
        self._numbers = np.empty(2 * _TEXT_WORDS_MAX, np.intp)
        self._taken: Floats = np.empty((2 * _TEXT_WORDS_MAX, width), np.float32)

    def sum(self, text: str) -> Floats | None:
        """(W,): the rows of its words, added up in the order of the text, and those of its pairs; None where it has no word or sign."""
        runs = bounded(text).lower().split()
        said = np.frombuffer(self._places(runs), np.uint16).astype(np.intp)
        count = len(said)
        if not count:
            return None
        self._texts += 1
        self._met[said] = self._texts
        numbers = self._numbers[: 2 * count - 1]
        np.add(said, FEATURES, out=numbers[:count])
        right = said[1:]
        np.bitwise_xor(self._followed[said[:-1], self._bytes[right]], self._ends[right], out=numbers[count:])
        # Of what is assigned to one place several times the last stays: backwards, that is the first.
        self._first[numbers[::-1]] = _DOWN[1 - 2 * count :]
        first = self._first[numbers] == _UP[: 2 * count - 1]
        distinct = numbers[first]
        words = np.count_nonzero(first[:count])
        taken = self._rows.take(distinct, 0, self._taken[: len(distinct)], "clip")
        total: Floats = np.add.reduce(taken[:words])
        return total if count == 1 else total + np.add.reduce(taken[words:])

    def _places(self, runs: list[str]) -> bytes:
        """Of the words, in the order of the text; two bytes each."""
        try:
            return b"".join(map(self._runs.__getitem__, runs))
        except KeyError:
            self._learn(runs)
            return b"".join(map(self._runs.__getitem__, runs))

    def _learn(self, runs: list[str]) -> None:
        """Take in what is new in a text."""
        if len(self._free) < _TEXT_WORDS_MAX:
            self._forget_words()
        if self._runs_chars > KEPT_RUNS_CHARS_MAX:
            self._forget_runs()
        words = {run: words_in(run) for run in runs if run not in self._runs}
        known = self._words
        new = [word for word in dict.fromkeys(chain.from_iterable(words.values())) if word not in known]
        for at in range(0, len(new), _WORDS_AT_ONCE):
            self._take_in(new[at : at + _WORDS_AT_ONCE])
        for run, its in words.items():
            self._runs[run] = array("H", map(known.__getitem__, its)).tobytes()
            self._runs_chars += len(run) + _RUN_CHARS

    def _take_in(self, words: Sequence[str]) -> None:
        """Find places for words."""
        raw = [word.encode("utf-8", "surrogatepass") for word in words]
        places = np.array([self._free.pop() for _ in words])
        self._rows[places + FEATURES] = self._added(words)
        hashes = list(map(crc32, raw))
        begun = np.array([crc32(b" ", each) for each in hashes], "<u4").view(np.uint8).reshape(-1, 4)
        self._followed[places] = np.bitwise_xor.reduce(_shifted()[begun + _BYTE_ROWS], 1)
        self._bytes[places] = list(map(len, raw))
        self._ends[places] = [1 << CHAR_BITS | each & _WORD_MASK for each in hashes]
        self._words.update(zip(words, places.tolist(), strict=True))

    def _forget_words(self) -> None:
        """All but the half that was met last."""
        places = np.fromiter(self._words.values(), np.intp, len(self._words))
        kept = set(places[np.argsort(-self._met[places], kind="stable")[: len(self._met) // 2]].tolist())
        self._free += [place for place in self._words.values() if place not in kept]
        self._words = {word: place for word, place in self._words.items() if place in kept}
        self._forget_runs()

    def _forget_runs(self) -> None:
        self._runs = {}
        self._runs_chars = 0


@cache
def _shifted() -> NDArray[np.uint16]:
    """(4 * 256, _WORD_BYTES_MAX + 1): the low bits of what each value of each byte of a CRC, lowest byte first, becomes after so many zero
    bytes. A CRC is linear: crc32(a + b) = shifted(crc32(a), len(b)) ^ crc32(b), and the bytes' shares are added by ^."""
    found = np.zeros((4, 256, _WORD_BYTES_MAX + 1), np.uint16)
    for bit in range(32):
        one = [(crc32(bytes(n), 1 << bit) ^ crc32(bytes(n))) & _WORD_MASK for n in range(_WORD_BYTES_MAX + 1)]
        table, low = found[bit // 8], 1 << bit % 8
        table[low : 2 * low] = table[:low] ^ np.array(one, np.uint16)
    return found.reshape(4 * 256, -1)
