"""Text to hashed features: character n-grams (2 to 5, within a word and its blanks) and words and pairs of words.

A word's n-grams depend on the word alone, so whatever is linear in the features is a sum over words and pairs, and a scorer can
keep what each word adds. A word counts once a text, however often it is said. Any change of what comes out for any text is a
new `FEATURES_VERSION`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import NamedTuple
from zlib import crc32

from policies.ood.text import bounded

FEATURES_VERSION = 1

CHAR_BITS = 14
WORD_BITS = 13
CHAR_SIZES = (2, 3, 4, 5)
FEATURES = (1 << CHAR_BITS) + (1 << WORD_BITS)
"""Columns: the character n-grams first, then words and pairs."""
WORD_CHARS_MAX = 32
"""A longer run of letters, as in scripts without blanks, is cut into pieces of this length."""

_CHAR_MASK = (1 << CHAR_BITS) - 1
_WORD_MASK = (1 << WORD_BITS) - 1
_WORDS = re.compile(rf"\w{{1,{WORD_CHARS_MAX}}}|[^\w\s]{{1,{WORD_CHARS_MAX}}}")


class Pieces(NamedTuple):
    """What a text is made of: its distinct words and the columns of its distinct pairs, in the order of the text."""

    words: tuple[str, ...]
    pairs: tuple[int, ...]


def pieces(text: str) -> Pieces:
    """Split a text, at most `policies.ood.text.TEXT_CHARS_MAX` characters of it. Any string is well, lone surrogates too."""
    found = words_in(bounded(text).lower())
    pairs = [pair_column(left, right) for left, right in dict.fromkeys(pairwise(found))]
    return Pieces(tuple(dict.fromkeys(found)), tuple(dict.fromkeys(pairs)))


def words_in(lower: str) -> list[str]:
    """The words and signs of a text in lower case, or of a run without blanks: no word goes over a blank."""
    return _WORDS.findall(lower)


def word_columns(word: str) -> list[int]:
    """The columns of a word: those of its n-grams, then its own. A column that two n-grams share stands twice."""
    padded = f" {word} ".encode("utf-8", "surrogatepass")
    grams: Iterable[bytes]
    if len(padded) == len(word) + 2:
        grams = _grams(len(padded))(padded)
    else:
        ends = list(accumulate((len(sign.encode("utf-8", "surrogatepass")) for sign in word), initial=1))
        ends = [0, *ends, ends[-1] + 1]
        grams = [padded[ends[i] : ends[j]] for i, j in _spans(len(word) + 2)]
    columns = [hashed & _CHAR_MASK for hashed in map(crc32, grams)]
    columns.append((1 << CHAR_BITS) + (crc32(padded[1:-1]) & _WORD_MASK))
    return columns


@lru_cache(WORD_CHARS_MAX + 2)
def _spans(length: int) -> list[tuple[int, int]]:
    """Where the n-grams of so many characters begin and end, shorter ones first."""
    return [(i, i + size) for size in CHAR_SIZES if size <= length for i in range(length - size + 1)]


@lru_cache(WORD_CHARS_MAX + 2)
def _grams(length: int) -> Callable[[bytes], tuple[bytes, ...]]:
    """Cuts that many bytes, of a character each, into n-grams. It needs `length` of 3 or more, which a word between blanks has."""
    return itemgetter(*[slice(*span) for span in _spans(length)])


def pair_column(left: str, right: str) -> int:
    """The column of two words that follow one another."""
    return (1 << CHAR_BITS) + (_hashed(f"{left} {right}") & _WORD_MASK)


def _hashed(text: str) -> int:
    return crc32(text.encode("utf-8", "surrogatepass"))
