"""The words of a text to one row: what its distinct words and pairs of words add up to, from what was kept of texts before.

The same sum, to the last bit, as over `policies.ood.features.pieces` one by one, but by a few numpy calls a text: a word is a number,
its row stands in one array with those of all pairs, and the column of a pair is looked up, not hashed.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import accumulate, chain, pairwise
from typing import TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from policies.ood.features import CHAR_BITS, FEATURES, WORD_BITS, WORD_CHARS_MAX, words_in
from policies.ood.new_words import FEW_WORDS
from policies.ood.text import TEXT_CHARS_MAX, bounded

Floats: TypeAlias = NDArray[np.float32]

KEPT_WORDS_MAX = 16_384
"""Words whose rows are kept. Where there is no room, the half that was met last stays."""
KEPT_RUNS_CHARS_MAX = 1 << 20
"""Characters of the runs without blanks whose words are kept, and `_RUN_CHARS` for each run; with more, they are forgotten."""
_RUN_CHARS = 32
NEW_WORDS_MAX = FEW_WORDS - 1
"""New words that a bounded sum takes in, one by one: more are dear in any case."""
_NEW_RUN_ROWS = 4
"""What it costs to look at a character of a run that was never met, in rows that are fetched."""
_NEW_WORD_ROWS = 16
"""What a character of a new word costs beyond that: the rows of four n-grams, each from elsewhere in memory, and their hashes."""
_ROOM_ROWS_MIN = 320
"""However wide a row is, a word of 16 characters is taken in: else texts with it would always be dear."""
_TEXT_WORDS_MAX = 2 * TEXT_CHARS_MAX
"""Words of a text: lower case may have twice its characters."""
_WORD_BYTES_MAX = 4 * WORD_CHARS_MAX
_WORD_MASK = (1 << WORD_BITS) - 1
_BYTE_ROWS = 256 * np.arange(4)[:, None]
_UP = np.arange(2 * _TEXT_WORDS_MAX, dtype=np.uint16)
_DOWN = _UP[::-1].copy()


class TooDearError(Exception):
    """A sum would cost more than it may."""


class WordRows:
    """Rows (W wide) of columns, and of the words that were met. Not for use by several threads at once."""

    def __init__(self, width: int, added: Callable[[Sequence[str], Sequence[int]], Floats], most: int = KEPT_WORDS_MAX) -> None:
        """`added`: what each of n words adds, (n, W), by the words, shorter ones first, and the CRC of each. `most`: words that are kept,
        at least twice what one text may have, and no more than two bytes can number."""
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
        _followed()  # made now, not by the first text

    def sum(self, text: str, rows_max: int | None = None) -> Floats | None:
        """(W,): the rows of its words, added up in the order of the text, and those of its pairs; None where it has no word or sign.

        `rows_max`: raises TooDearError where that costs more than to fetch so many rows, before it costs it. If new words are why, those
        that there was room for have been taken in then, so that a text like it may be summed another time.
        """
        runs = bounded(text).lower().split()
        if rows_max is not None and 2 * len(runs) > rows_max:
            raise TooDearError  # a run has one word at least, and with the next run's it is a pair
        said = np.frombuffer(self._places(runs, rows_max), np.uint16).astype(np.intp)
        count = len(said)
        if not count:
            return None
        if rows_max is not None and 2 * count > rows_max:
            raise TooDearError
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

    def _places(self, runs: list[str], rows_max: int | None) -> bytes:
        """Of the words, in the order of the text; two bytes each. Raises TooDearError."""
        try:
            return b"".join(map(self._runs.__getitem__, runs))
        except KeyError:
            self._learn(runs, rows_max)
        try:
            return b"".join(map(self._runs.__getitem__, runs))
        except KeyError:
            raise TooDearError from None

    def _learn(self, runs: list[str], rows_max: int | None) -> None:
        """Take in what is new in a text, as much of it as `rows_max` has room for."""
        if len(self._free) < _TEXT_WORDS_MAX:
            self._forget_words()
        if self._runs_chars > KEPT_RUNS_CHARS_MAX:
            self._forget_runs()
        kept, known = self._runs, self._words
        runs = [run for run in dict.fromkeys(runs) if run not in kept]
        if rows_max is not None and not (runs := self._affordable(runs, rows_max)):
            return
        words = words_in(" ".join(runs))
        if new := [word for word in dict.fromkeys(words) if word not in known]:
            new.sort(key=len)
            self._take_in(new)
        places = array("H", map(known.__getitem__, words)).tobytes()
        ends: Iterable[int] = range(2, len(places) + 2, 2)
        if len(words) > len(runs):
            # A run ends where a word of it does.
            ends = map(dict(zip(accumulate(map(len, words)), ends, strict=True)).__getitem__, accumulate(map(len, runs)))
        kept.update(zip(runs, [places[start:end] for start, end in pairwise(chain([0], ends))], strict=True))
        self._runs_chars += sum(map(len, runs)) + _RUN_CHARS * len(runs)

    def _affordable(self, runs: list[str], rows_max: int) -> list[str]:
        """The first of these runs, those that there is room for."""
        room = max(rows_max, _ROOM_ROWS_MIN)
        new: set[str] = set()
        for index, run in enumerate(runs):
            room -= _NEW_RUN_ROWS * len(run)
            if room >= 0:
                words = {word for word in words_in(run) if word not in self._words} - new
                room -= _NEW_WORD_ROWS * sum(map(len, words))
                new |= words
            if room < 0 or len(new) > NEW_WORDS_MAX:
                return runs[:index]
        return runs

    def _take_in(self, words: Sequence[str]) -> None:
        """Find places for words."""
        raw = [word.encode("utf-8", "surrogatepass") for word in words]
        hashes = list(map(crc32, raw))
        places = np.array(self._free[-len(words) :])
        del self._free[-len(words) :]
        self._rows[places + FEATURES] = self._added(words, hashes)
        crcs = np.array(hashes, "<u4")
        shares = _followed().take(crcs.view(np.uint8).reshape(-1, 4).T + _BYTE_ROWS, 0)
        self._followed[places] = np.bitwise_xor.reduce(shares, 0)
        self._bytes[places] = list(map(len, raw))
        self._ends[places] = crcs & _WORD_MASK | 1 << CHAR_BITS
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
def _followed() -> NDArray[np.uint16]:
    """(4 * 256, _WORD_BYTES_MAX + 1): what each value of each byte of a word's CRC, lowest byte first, gives to the low bits of the hash of
    a pair that the word begins, by the bytes of the second word. A CRC is linear: crc32(a + b) = shifted(crc32(a), len(b)) ^ crc32(b), and
    the bytes' shares are added by ^; the blank's stands in those of the lowest byte."""
    found = np.zeros((4, 256, _WORD_BYTES_MAX + 1), np.uint16)
    zeros = [crc32(bytes(n)) for n in range(_WORD_BYTES_MAX + 2)]
    for bit in range(32):
        one = [(crc32(bytes(n), 1 << bit) ^ zeros[n]) & _WORD_MASK for n in range(1, _WORD_BYTES_MAX + 2)]
        table, low = found[bit // 8], 1 << bit % 8
        table[low : 2 * low] = table[:low] ^ np.array(one, np.uint16)
    found[0] ^= np.array([(crc32(b" " + bytes(n)) ^ zeros[n]) & _WORD_MASK for n in range(_WORD_BYTES_MAX + 1)], np.uint16)
    return found.reshape(4 * 256, -1)
