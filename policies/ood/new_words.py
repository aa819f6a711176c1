"""New words to rows: what each adds, the sum of the rows of its columns. Of many words in a few numpy calls, with the bits of one by one.

That rests on order: the rows of a word are added up in the order of its columns, and words with as many columns side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from policies.ood.columns import columns_of
from policies.ood.features import CHAR_SIZES, FEATURES, WORD_CHARS_MAX, word_columns

Floats: TypeAlias = NDArray[np.float32]

FEW_WORDS = 8
"""Of fewer, one after another: that costs less."""
_TAKEN_BYTES = 1 << 18
"""Rows of columns that are copied at once: what a core's own cache holds. At least those of a word."""
_WORD_COLUMNS_MAX = len(CHAR_SIZES) * (WORD_CHARS_MAX + 1)
_COLUMN_BITS = FEATURES.bit_length()
_COLUMN_MASK = (1 << _COLUMN_BITS) - 1


class NewWords:
    """Adds up what is in the rows of columns; the last two of a row are squares. Not for use by several threads at once."""

    def __init__(self, rows: Floats) -> None:
        """`rows`: (FEATURES, W)."""
        self._rows = rows
        width = rows.shape[1]
        self._squares = rows[:, -2:].copy()
        self._taken: Floats = np.empty((max(_WORD_COLUMNS_MAX, _TAKEN_BYTES // (4 * width)), width), np.float32)
        columns_of(("a", "b"), (0, 0))  # its tables are made now, not by the first text

    def rows(self, words: Sequence[str], hashes: Sequence[int]) -> Floats:
        """(n, W): what each word adds. The words come shorter ones first, with the CRC of each."""
        found = np.empty((len(words), self._rows.shape[1]), np.float32)
        if len(words) < FEW_WORDS:
            for word, row in zip(words, found, strict=True):
                self._one(word, row)
        else:
            self._many(columns_of(words, hashes), found)
        return found

    def _one(self, word: str, row: Floats) -> None:
        columns = word_columns(word)
        np.add.reduce(self._rows.take(columns, 0, self._taken[: len(columns)], "clip"), out=row)
        if len(set(columns)) < len(columns):
            # A column that stands twice counts four times in a squared length. Those that two words share are not looked for.
            counts = Counter(columns)
            distinct = sorted(counts)
            squares = np.array([counts[column] ** 2 for column in distinct], np.float32)
            row[-2:] = squares @ self._squares[distinct]

    def _many(self, columns: Sequence[NDArray[np.uint16]], found: Floats) -> None:
        """`columns`: of `columns_of`."""
        start = 0
        for each in columns:
            step = len(self._taken) // each.shape[1]
            for at in range(0, len(each), step):
                # The first column of every word, then the second: each is added to all words at once.
                some = each[at : at + step].T
                taken = self._rows.take(some.ravel(), 0, self._taken[: some.size], "clip")
                np.add.reduce(taken.reshape(*some.shape, -1), 0, out=found[start + at : start + at + some.shape[1]])
            start += len(each)
        self._square(columns, found)

    def _square(self, columns: Sequence[NDArray[np.uint16]], found: Floats) -> None:
        """As `_one` does for columns that stand twice."""
        lengths = np.repeat([each.shape[1] for each in columns], list(map(len, columns)))
        keys = np.repeat(np.arange(len(found), dtype=np.int32) << _COLUMN_BITS, lengths)
        keys |= np.concatenate(columns, None)
        keys.sort()
        again = keys[1:] == keys[:-1]
        if not again.any():
            return
        doubled = np.zeros(len(found), np.bool_)
        doubled[keys[1:][again] >> _COLUMN_BITS] = True
        keys = keys[np.repeat(doubled, lengths)]
        # Where another column begins, and the end.
        edges = np.append(np.flatnonzero(np.append(True, keys[1:] != keys[:-1])), len(keys))
        squares = np.square(edges[1:] - edges[:-1]).astype(np.float32)
        keys = keys[edges[:-1]]
        shares = self._squares.take(keys & _COLUMN_MASK, 0)
        words = keys >> _COLUMN_BITS
        lasts = np.append(np.flatnonzero(words[1:] != words[:-1]), len(words) - 1).tolist()
        start = 0
        for last in lasts:
            # One by one: numpy adds up another number of products in another order.
            found[words[last], -2:] = squares[start : last + 1] @ shares[start : last + 1]
            start = last + 1
