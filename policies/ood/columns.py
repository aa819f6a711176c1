"""The columns of many words at once: what `policies.ood.features.word_columns` says of each, hashed together in numpy.

A CRC is linear: that of an n-gram is the ^ of what each of its bytes gives by its distance from the end. So the n-grams that begin at
all characters are hashed together, each from the shorter one that begins a character later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from policies.ood.features import CHAR_BITS, CHAR_SIZES, WORD_BITS

_CHAR_MASK = (1 << CHAR_BITS) - 1
_WORD_MASK = (1 << WORD_BITS) - 1
_CHAR_BYTES_MAX = 4
_GRAM_BYTES_MAX = _CHAR_BYTES_MAX * CHAR_SIZES[-1]
_LACKING = 256
"""In place of a byte that a character lacks."""
_ORDER = np.arange(_CHAR_BYTES_MAX)[:, None]
"""Of the bytes of a character."""


def columns_of(words: Sequence[str], hashes: Sequence[int]) -> list[NDArray[np.uint16]]:
    """The columns of words, which come shorter ones first: of all with as many characters (n, L), each row in the order of `word_columns`.
    There are two at least. `hashes`: the CRC of each word."""
    own = (np.array(hashes, np.uint32) & _WORD_MASK | 1 << CHAR_BITS).astype(np.uint16)
    grams = _grams(f" {' '.join(words)} ")
    found = []
    word = start = 0
    for length, count in Counter(map(len, words)).items():
        # A word begins with the blank that ends the one before it.
        end = start + count * (length + 1)
        by_word = grams[:, start:end].reshape(len(CHAR_SIZES), count, length + 1)
        parts = [by_word[at, :, : length + 3 - size] for at, size in enumerate(CHAR_SIZES) if size <= length + 2]
        found.append(np.concatenate([*parts, own[word : word + count, None]], 1))
        word, start = word + count, end
    return found


def _grams(text: str) -> NDArray[np.uint16]:
    """(len(CHAR_SIZES), characters): the column of the n-gram of each size that begins at each character. Those that would go over the
    end mean nothing. The text has at least as many characters as the longest n-gram."""
    raw = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    chars = len(text)
    alone = len(raw) == chars
    shares = _shares()
    if alone:
        places = raw.astype(np.intp)
    else:
        starts = np.append(np.flatnonzero(raw & 0xC0 != 0x80), len(raw))
        lengths = starts[1:] - starts[:-1]
        order = _ORDER[: lengths.max()]
        # (bytes of a character, characters): where a byte's share is in `shares`, but for what the length of the n-gram adds.
        places = raw.take(starts[:-1] + order, mode="clip").astype(np.intp)
        places[order >= lengths] = _LACKING
        places -= order * shares.shape[1]
        starts *= shares.shape[1]
    found = np.empty((len(CHAR_SIZES), chars), np.uint16)
    last = np.zeros(chars + 1, np.uint16)
    for size in range(1, CHAR_SIZES[-1] + 1):
        count = chars - size + 1
        if alone:
            own = shares[size].take(places[:count], mode="clip")
        else:
            own = np.bitwise_xor.reduce(shares.take(places[:, :count] + (starts[size:] - starts[:count]), mode="clip"), 0)
        into = found[size - CHAR_SIZES[0], :count] if size >= CHAR_SIZES[0] else None
        last = np.bitwise_xor(own, last[1:], into)
    return found


@cache
def _shares() -> NDArray[np.uint16]:
    """(_GRAM_BYTES_MAX + 1, 257): the low bits of what a byte gives to a CRC, by its distance from the end (1 for the last)."""
    shares = np.zeros((_GRAM_BYTES_MAX + 1, _LACKING + 1), np.uint16)
    for distance in range(1, len(shares)):
        rest = bytes(distance - 1)
        shares[distance, :256] = [(crc32(bytes([byte]) + rest) ^ crc32(rest)) & _CHAR_MASK for byte in range(256)]
    return shares
