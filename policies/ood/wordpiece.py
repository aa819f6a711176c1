"""Text to word pieces, as BERT's uncased models split it: lower case, no accents, then the longest pieces of a vocabulary."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

UNKNOWN, START, END = "[UNK]", "[CLS]", "[SEP]"
PIECE_WORD_CHARS_MAX = 100
"""A longer word is unknown as a whole."""
KEPT_WORDS_MAX = 16_384
"""Words whose pieces are kept; what comes after them is split each time."""

_INSIDE = "##"
_WORDS = re.compile(r"[^\W_]+|[^\w\s]|_")


class WordPieces:
    """Splits by one vocabulary: its pieces in the order of their numbers, those inside a word with `##` before them."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        """Raises ValueError for a vocabulary without `[UNK]`, `[CLS]` and `[SEP]`."""
        self._numbers = {piece: number for number, piece in enumerate(vocabulary)}
        if missing := {UNKNOWN, START, END} - self._numbers.keys():
            raise ValueError(f"the vocabulary has no {', '.join(sorted(missing))}")
        self._chars: dict[str, int] = {}
        """Of what pieces begin with (`##` where inside a word, and up to two characters): the characters of the longest."""
        for piece in vocabulary:
            marks = 2 * piece.startswith(_INSIDE)
            for skipped in {0, marks}:
                begin = piece[: skipped + 2]
                self._chars[begin] = max(self._chars.get(begin, 0), len(piece) - skipped)
        self._words: dict[str, tuple[int, ...]] = {}

    def numbers(self, text: str) -> list[int]:
        """The numbers of a text's pieces, without marks and without what is unknown."""
        unknown = self._numbers[UNKNOWN]
        return [number for word in _WORDS.findall(plain(text)) for number in self._word(word) if number != unknown]

    def split(self, text: str, most: int) -> list[int]:
        """The numbers of a text's pieces, `most` of them, between those of START and END."""
        found = [self._numbers[START]]
        for word in _WORDS.findall(plain(text)):
            found += self._word(word)
            if len(found) > most:
                break
        return [*found[: most + 1], self._numbers[END]]

    def _word(self, word: str) -> tuple[int, ...]:
        if word in self._words:
            return self._words[word]
        numbers = self._longest(word) if len(word) <= PIECE_WORD_CHARS_MAX else (self._numbers[UNKNOWN],)
        if len(self._words) < KEPT_WORDS_MAX:
            self._words[word] = numbers
        return numbers

    def _longest(self, word: str) -> tuple[int, ...]:
        found: list[int] = []
        start = 0
        while start < len(word):
            marks = _INSIDE if start else ""
            longest = self._chars.get(marks + word[start : start + 2], 1)
            for end in range(min(len(word), start + longest), start, -1):
                piece = marks + word[start:end]
                if piece in self._numbers:
                    found.append(self._numbers[piece])
                    start = end
                    break
            else:
                return (self._numbers[UNKNOWN],)
        return tuple(found)


def plain(text: str) -> str:
    """Lower case, without accents. A Chinese, Japanese or Korean ideograph stands alone."""
    if text.isascii():
        return text.lower()
    apart = "".join(f" {sign} " if "一" <= sign <= "鿿" else sign for sign in text.lower())
    return "".join(sign for sign in unicodedata.normalize("NFD", apart) if unicodedata.category(sign) != "Mn")
