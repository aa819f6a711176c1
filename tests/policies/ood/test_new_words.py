"""Many new words at once against each by itself, to the last bit."""

from __future__ import annotations

import random
from zlib import crc32

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies.ood import new_words
from policies.ood.features import FEATURES, WORD_CHARS_MAX, word_columns
from policies.ood.new_words import FEW_WORDS, Floats, NewWords

WIDTH = 7

words_of = st.one_of(
    st.text(min_size=1, max_size=WORD_CHARS_MAX),
    st.text(alphabet="ab", min_size=1, max_size=WORD_CHARS_MAX),
    st.integers(0, 10**9).map(str),
    st.text(alphabet="支付我的账单", min_size=20, max_size=WORD_CHARS_MAX),
)


@pytest.fixture(scope="module")
def rows() -> Floats:
    return np.random.default_rng(3).standard_normal((FEATURES, WIDTH)).astype(np.float32)


def found(rows: Floats, words: list[str]) -> Floats:
    return NewWords(rows).rows(words, [crc32(word.encode("utf-8", "surrogatepass")) for word in words])


def defined(rows: Floats, word: str) -> Floats:
    """Column by column; of the last two what stands n times n * n times, in the order of the columns."""
    columns = word_columns(word)
    total = rows[columns[0]].copy()
    for column in columns[1:]:
        total += rows[column]
    distinct, times = np.unique(columns, return_counts=True)
    if len(distinct) < len(columns):
        total[-2:] = (times * times).astype(np.float32) @ rows[distinct, -2:]
    return total


def test_together_as_one_by_one(rows: Floats) -> None:
    @settings(max_examples=200, deadline=None)
    @given(st.lists(words_of, min_size=1, max_size=80, unique=True))
    @example(["a"] * FEW_WORDS)
    @example(["a" * WORD_CHARS_MAX] * 100)
    def check(words: list[str]) -> None:
        words.sort(key=len)
        expected = [defined(rows, word).tobytes() for word in words]
        assert [row.tobytes() for row in found(rows, words)] == expected

    check()


@pytest.mark.parametrize("count", [1, FEW_WORDS - 1, FEW_WORDS, 300])
def test_however_many_there_are(rows: Floats, count: int) -> None:
    rng = random.Random(count)
    words = sorted(("".join(rng.choices("abcdefgh0123支", k=rng.randint(1, WORD_CHARS_MAX))) for _ in range(count)), key=len)
    assert [row.tobytes() for row in found(rows, words)] == [defined(rows, word).tobytes() for word in words]


def test_wide_rows_are_copied_some_at_a_time(rows: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a word there are never more columns than rows that can be copied."""
    words = sorted([*(str(number) for number in range(200)), "ab" * (WORD_CHARS_MAX // 2)], key=len)
    expected = found(rows, words).tobytes()
    monkeypatch.setattr(new_words, "_TAKEN_BYTES", 1)
    least = NewWords(rows)._taken
    assert len(least) >= len(word_columns("x" * WORD_CHARS_MAX))
    assert found(rows, words).tobytes() == expected
