"""Learn a byte-level BPE vocabulary and write it as a Hugging Face `tokenizer.json`. Used by the trainer only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from gateway.embedded.tokenizer import SPECIAL_TOKENS, byte_characters, words

SHOWN_SPECIALS = frozenset(("<tool_call>", "</tool_call>"))
"""Added tokens that stand in the text for whoever parses tool calls, so they are not `special` in Hugging Face's sense."""


def learn(texts: Iterable[str], size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the vocabulary and the merges: `size` tokens in all, the commonest pair merged first, ties in the order of the text."""
    characters = byte_characters()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(words(text))
    parts = {word: [characters[byte] for byte in word.encode()] for word in counts}
    vocabulary = {token: id_ for id_, token in enumerate((*SPECIAL_TOKENS, *sorted(characters)))}
    merges: list[tuple[str, str]] = []
    while len(vocabulary) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in parts.items():
            for pair in pairwise(pieces):
                pairs[pair] += counts[word]
        (left, right), _ = max(pairs.items(), key=lambda item: (item[1], item[0]))
        merges.append((left, right))
        vocabulary[left + right] = len(vocabulary)
        for word, pieces in parts.items():
            parts[word] = _merged(pieces, left, right)
    return vocabulary, merges


def _merged(pieces: list[str], left: str, right: str) -> list[str]:
    result: list[str] = []
    for piece in pieces:
        if piece == right and result and result[-1] == left:
            result[-1] = left + right
        else:
            result.append(piece)
    return result


def definition(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> str:
    """Return the text of `tokenizer.json`."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [{"id": vocabulary[token], "content": token, **flags, "special": token not in SHOWN_SPECIALS} for token in SPECIAL_TOKENS]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocabulary,
        "merges": [list(pair) for pair in merges],
    }
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
            "post_processor": None,
            "decoder": byte_level,
            "model": model,
        },
        ensure_ascii=False,
    )
