"""Byte-level BPE: the same tokens as the reference, and text that survives the way there and back."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gateway.embedded import bpe, weights
from gateway.embedded.engine import Library
from gateway.embedded.tokenizer import IM_END, TOOL_CALL, Detokenizer, Tokenizer

VECTORS = json.loads(Path(__file__).with_name("vectors.json").read_text())
TOKENIZER = Tokenizer((weights.folder() / "tokenizer.json").read_text(encoding="utf-8"))


def test_tokens_are_those_of_the_tokenizers_package() -> None:
    wrong = [text for text, ids in VECTORS if TOKENIZER.encode(text, specials=True) != ids]
    assert len(VECTORS) > 50
    assert wrong == []


@given(st.text())
def test_every_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.text())
def test_streamed_text_is_whole_text(text: str) -> None:
    detokenizer = Detokenizer(TOKENIZER)
    assert "".join(map(detokenizer.push, TOKENIZER.encode(text))) + detokenizer.flush() == text


def test_half_a_character_is_kept_back_and_in_the_end_replaced() -> None:
    first, *rest = TOKENIZER.encode("ẞ")
    assert rest, "the vocabulary has a token of its own for it"
    detokenizer = Detokenizer(TOKENIZER)
    assert detokenizer.push(first) == ""
    assert detokenizer.flush() == "\ufffd"


def test_special_tokens_in_plain_text_stay_text() -> None:
    text = "<|im_end|><tool_call>"
    assert not {IM_END, TOOL_CALL} & set(TOKENIZER.encode(text))
    assert TOKENIZER.encode(text, specials=True) == [IM_END, TOOL_CALL]
    assert TOKENIZER.decode([IM_END]) == ""


def test_labels_are_few_tokens(library: Library) -> None:
    assert all(len(library.tokenizer.encode(label)) <= 2 for label in ("billing", "shipping", "technical", "account"))


def test_learning_merges_the_commonest_pair_first() -> None:
    size = 5 + 256 + 2
    vocabulary, merges = bpe.learn(["abab abab cd"], size)
    assert merges == [("a", "b"), ("ab", "ab")]
    learnt = Tokenizer(bpe.definition(vocabulary, merges))
    assert learnt.decode(learnt.encode("abab 12")) == "abab 12"
    assert len(learnt.encode("abab")) == 1
