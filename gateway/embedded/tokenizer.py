"""Byte-level BPE in plain Python, read from a Hugging Face `tokenizer.json`.

Text is cut at every digit, then into words by the GPT-2 expression; the bytes of a word are merged in the order in which the merges were
learnt. It gives the same tokens as the `tokenizers` package and as llama.cpp's pre-tokenizer `smollm`.
"""

from __future__ import annotations

import codecs
import functools
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
"""The first tokens of the vocabulary, in this order. The first three are never shown as text."""

END_OF_TEXT, IM_START, IM_END, TOOL_CALL, TOOL_CALL_END = range(5)
HIDDEN = frozenset((END_OF_TEXT, IM_START, IM_END))

WORDS_CACHED_MAX = 8192

_WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W_]+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
"""GPT-2's expression without its numbers, which are cut out before it is applied."""


def byte_characters() -> list[str]:
    """Return the printable character that stands for each byte in the vocabulary of a byte-level BPE."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def words(text: str) -> list[str]:
    """Cut text into the pieces within which tokens are merged: each number character by itself, the rest into words."""
    pieces: list[str] = []
    start = 0
    for i, character in enumerate(text):
        if unicodedata.category(character)[0] == "N":
            pieces += _WORD.findall(text[start:i])
            pieces.append(character)
            start = i + 1
    return pieces + _WORD.findall(text[start:])


class Tokenizer:
    """Text to token ids and back."""

    def __init__(self, definition: str) -> None:
        """Read the text of a `tokenizer.json`."""
        parsed = json.loads(definition)
        self.vocabulary: dict[str, int] = parsed["model"]["vocab"]
        self.merges: list[tuple[str, str]] = [(left, right) for left, right in parsed["model"]["merges"]]
        self.specials: dict[str, int] = {token["content"]: token["id"] for token in parsed["added_tokens"]}
        characters = byte_characters()
        byte_of = {character: byte for byte, character in enumerate(characters)}
        size = max([*self.vocabulary.values(), *self.specials.values()]) + 1
        self.token_bytes: list[bytes] = [b""] * size
        for token, id_ in self.vocabulary.items():
            if token not in self.specials:
                self.token_bytes[id_] = bytes(byte_of[character] for character in token)
        for token, id_ in self.specials.items():
            self.token_bytes[id_] = token.encode()
        self._characters = characters
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._special = re.compile("(" + "|".join(map(re.escape, self.specials)) + ")")
        self._word = functools.lru_cache(maxsize=WORDS_CACHED_MAX)(self._merge)

    def encode(self, text: str, *, specials: bool = False) -> list[int]:
        """Return the ids of `text`; the names of special tokens in it are plain text unless `specials`."""
        if not specials:
            return [id_ for word in words(text) for id_ in self._word(word)]
        ids: list[int] = []
        for part in self._special.split(text):
            ids += [self.specials[part]] if part in self.specials else self.encode(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, without the tokens of the chat format."""
        return b"".join(self.token_bytes[id_] for id_ in ids if id_ not in HIDDEN).decode("utf-8", "replace")

    def _merge(self, word: str) -> Sequence[int]:
        parts = [self._characters[byte] for byte in word.encode()]
        while len(parts) > 1:
            rank, at = min((self._ranks.get(pair, len(self._ranks)), i) for i, pair in enumerate(pairwise(parts)))
            if rank == len(self._ranks):
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return tuple(self.vocabulary[part] for part in parts)


class Detokenizer:
    """Tokens to text as they come: a character is handed out once all of its bytes have arrived."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id_: int) -> str:
        """Return the text that is complete with this token, empty while a character is not."""
        return "" if id_ in HIDDEN else self._decoder.decode(self._token_bytes[id_])

    def flush(self) -> str:
        """Return what is left at the end: a replacement character for a half one."""
        return self._decoder.decode(b"", final=True)
