"""The columns of many words together against those of each word by itself."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies.ood.columns import columns_of
from policies.ood.features import WORD_CHARS_MAX, word_columns, words_in

texts = st.one_of(
    st.text(min_size=4, max_size=600),
    st.text(alphabet="abz09é支😀\ud800\x00?! ", min_size=4, max_size=600),
    st.lists(st.integers(0, 10**9).map(str), min_size=1, max_size=100).map(" ".join),
)


@settings(max_examples=300, deadline=None)
@given(texts)
@example("a b c")
@example("\U0010ffff" * WORD_CHARS_MAX + " " + "\x00" * WORD_CHARS_MAX + " \ud800 \uffff \u0800 \u07ff \u0080 \x7f")
def test_every_word_has_its_own_columns(text: str) -> None:
    words = sorted(dict.fromkeys(words_in(text)), key=len)
    if len(words) < 2:
        return
    found = columns_of(words, [crc32(word.encode("utf-8", "surrogatepass")) for word in words])
    assert [row.tolist() for each in found for row in each] == [word_columns(word) for word in words]


@pytest.mark.parametrize("first", [0x20, 0x7F, 0x7FF, 0xD7FF, 0xFFFF])
def test_where_a_character_takes_another_byte(first: int) -> None:
    """Words of characters from both sides of it."""
    signs = [chr(code) for code in range(first, first + 3)]
    words = sorted({a + b + c for a in signs for b in signs for c in signs} | set(signs), key=len)
    found = columns_of(words, [crc32(word.encode("utf-8", "surrogatepass")) for word in words])
    assert [row.tolist() for each in found for row in each] == [word_columns(word) for word in words]
