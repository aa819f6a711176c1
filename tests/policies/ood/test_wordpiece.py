from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.ood import wordpiece
from policies.ood.wordpiece import WordPieces, plain

from .tiny import VOCABULARY

PIECES = VOCABULARY.split("\n")


def split(text: str, most: int = 100) -> list[str]:
    return [PIECES[number] for number in WordPieces(PIECES).split(text, most)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Pay, my INVOICE?", "pay , my invoice ?"),
        ("unlocking 42", "un ##lock ##ing 4 ##2"),
        ("páy", "pay"),
        ("pay_my", "pay _ my"),
        ("unlockx pay", "[UNK] pay"),
        ("支支", "支 支"),
        ("x" * 101, "[UNK]"),
        ("", ""),
    ],
)
def test_the_longest_pieces_are_taken(text: str, expected: str) -> None:
    assert split(text) == ["[CLS]", *expected.split(), "[SEP]"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet="ab#", min_size=1, max_size=5), max_size=12), st.text(alphabet="ab#", min_size=1, max_size=12))
def test_no_longer_piece_is_overlooked(pieces: list[str], word: str) -> None:
    """By trying every length of every piece."""
    vocabulary = list(dict.fromkeys(["[UNK]", "[CLS]", "[SEP]", *pieces]))
    expected: list[int] = []
    start = 0
    while start < len(word):
        marks = "##" if start else ""
        ends = [end for end in range(start + 1, len(word) + 1) if marks + word[start:end] in vocabulary]
        if not ends:
            expected = [vocabulary.index("[UNK]")]
            break
        expected.append(vocabulary.index(marks + word[start : max(ends)]))
        start = max(ends)
    assert list(WordPieces(vocabulary)._word(word)) == expected


def test_a_long_text_is_cut() -> None:
    assert split("pay " * 50, 5) == ["[CLS]", *["pay"] * 5, "[SEP]"]


def test_numbers_leave_out_what_is_unknown() -> None:
    assert [PIECES[number] for number in WordPieces(PIECES).numbers("pay qqq parcels")] == ["pay", "parcel", "##s"]


def test_kept_words_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordpiece, "KEPT_WORDS_MAX", 2)
    splitter = WordPieces(PIECES)
    first = [splitter.numbers(word) for word in ("pay", "my", "invoice", "invoice")]
    assert len(splitter._words) == 2
    assert first[2] == first[3]


def test_a_vocabulary_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has no \[CLS\], \[SEP\]"):
        WordPieces(["[UNK]", "a"])


def test_accents_go() -> None:
    assert plain("ÀÉô") == "aeo"
