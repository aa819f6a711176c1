from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.ood.features import FEATURES, WORD_CHARS_MAX, pieces, word_columns
from policies.ood.text import TEXT_CHARS_MAX, TEXT_KINDS, Turn, bounded, guard_text, turns

CHAT = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": [{"type": "text", "text": "three"}, {"type": "image_url", "image_url": {"url": "x"}}, {"text": "four"}]},
]


@pytest.mark.parametrize(
    ("kind", "text"), [("last_user", "three\nfour"), ("user_turns", "one\nthree\nfour"), ("conversation", "one\ntwo\nthree\nfour")]
)
def test_what_is_taken_of_a_conversation(kind: Any, text: str) -> None:
    assert guard_text(turns(CHAT), kind) == text


@pytest.mark.parametrize(
    "messages", [None, 3, {}, [], [None], [{"role": 1}], [{"role": "user"}], " \n", [{"role": "user", "content": [{"image": 1}]}]]
)
@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_no_text_is_none(messages: object, kind: Any) -> None:
    assert guard_text(turns(messages), kind) is None


def test_a_bare_prompt_is_a_user_turn() -> None:
    assert turns("hello") == [Turn("user", "hello")]


def test_an_enormous_text_keeps_its_ends() -> None:
    text = bounded("a" * 10_000_000 + "z" * 10_000_000)
    assert len(text) == TEXT_CHARS_MAX
    assert text[0] == "a"
    assert text[-1] == "z"


@given(st.text(st.characters(), max_size=300))
def test_any_text_has_columns_in_range_and_always_the_same(text: str) -> None:
    """Lone surrogates, control characters and every script among them."""
    found = pieces(text)
    assert found == pieces(text)
    assert bool(found.words) == bool(text.strip())
    assert all(len(word) <= 2 * WORD_CHARS_MAX for word in found.words)
    assert all(0 <= column < FEATURES for word in found.words for column in word_columns(word))
    assert all(0 <= column < FEATURES for column in found.pairs)


@given(
    st.recursive(
        st.none() | st.text(max_size=9) | st.integers(),
        lambda x: st.lists(x, max_size=4) | st.dictionaries(st.sampled_from(["role", "content", "text"]), x),
    )
)
def test_anything_that_is_json_has_turns(messages: object) -> None:
    for kind in TEXT_KINDS:
        guard_text(turns(messages), kind)
    assert turns(messages) == turns(msgspec.json.decode(msgspec.json.encode(messages)))


def test_columns_are_frozen() -> None:
    """Another value here is another FEATURES_VERSION."""
    assert pieces("Pay my bill, my bill!") == (
        ("pay", "my", "bill", ",", "!"),
        tuple(dict.fromkeys(pieces("pay my bill , my bill !").pairs)),
    )
    assert word_columns("a") == COLUMNS_OF_A
    assert pieces("pay bill").pairs == PAIR


COLUMNS_OF_A = [10131, 10449, 9692, 24131]
PAIR = (23642,)
