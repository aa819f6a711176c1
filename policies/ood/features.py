"""Text to hashed features: character n-grams (2 to 5, within a word and its blanks) and words and pairs of words.

A word's n-grams depend on the word alone, so whatever is linear in the features is a sum over words and pairs, and a scorer can
keep what each word adds. A word counts once a text, however often it is said. Any change of what comes out for any text is a
new `FEATURES_VERSION`.
"""

from __future__ import annotations

import re
from itertools import pairwise
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
    found = _WORDS.findall(bounded(text).lower())
    pairs = [pair_column(left, right) for left, right in dict.fromkeys(pairwise(found))]
    return Pieces(tuple(dict.fromkeys(found)), tuple(dict.fromkeys(pairs)))


def word_columns(word: str) -> list[int]:
    """The columns of a word: those of its n-grams, then its own. A column that two n-grams share stands twice."""
    padded = f" {word} "
    length = len(padded)
    grams = [padded[i : i + size] for size in CHAR_SIZES if size <= length for i in range(length - size + 1)]
    columns = [crc32(gram.encode("utf-8", "surrogatepass")) & _CHAR_MASK for gram in grams]
    columns.append((1 << CHAR_BITS) + (_hashed(word) & _WORD_MASK))
    return columns


def pair_column(left: str, right: str) -> int:
    """The column of two words that follow one another."""
    return (1 << CHAR_BITS) + (_hashed(f"{left} {right}") & _WORD_MASK)


def _hashed(text: str) -> int:
    return crc32(text.encode("utf-8", "surrogatepass"))
