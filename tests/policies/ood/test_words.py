"""A scorer's sums against the definition: word by word and pair by pair, hashed and added up one after another."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.ood import words
from policies.ood.artifact import Detector
from policies.ood.energy import Floats, Scorer, from_sum, from_sums
from policies.ood.features import CHAR_BITS, CHAR_SIZES, FEATURES, WORD_CHARS_MAX, pieces, word_columns, words_in
from policies.ood.text import TEXT_CHARS_MAX
from policies.ood.words import TooDearError, WordRows

from .generated import examples, outsiders, small

LEAST = 4 * TEXT_CHARS_MAX
"""Words that a table must keep at least."""

words_of = st.one_of(
    st.sampled_from(
        ["pay", "invoice", "Pay", "banana", "aaaa", "x", "İ", "ΣΑΣ", "straße", "3.14", "re-send?!", "…", "\ud800", "支付我的账单"]
    ),
    st.text(min_size=1, max_size=3 * WORD_CHARS_MAX),
    st.text(alphabet="ab ?", min_size=1, max_size=12),
    st.integers(0, 10**9).map(str),
)
texts = st.one_of(
    st.lists(words_of, max_size=60).map(" ".join),
    st.text(max_size=400),
    st.text(alphabet="ab.\n\u3000\x1f支İ", max_size=3 * TEXT_CHARS_MAX),
)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return small().detector


def defined(scorer: Scorer, text: str) -> Floats | None:
    """The sum as the features define it."""
    found = pieces(text)
    if not found.words:
        return None
    rows = scorer._words.columns
    total = np.add.reduce([added(rows, word) for word in found.words])
    return total + np.add.reduce(rows[list(found.pairs)]) if found.pairs else total


def added(rows: Floats, word: str) -> Floats:
    """What a word adds: the rows of its columns, and the squares of columns that stand several times, in the order of the columns."""
    columns = word_columns(word)
    row = np.add.reduce(rows[columns])
    distinct, times = np.unique(columns, return_counts=True)
    if len(distinct) < len(columns):
        row[-2:] = (times * times).astype(np.float32) @ rows[distinct, -2:]
    return row


def bits(values: Floats | None) -> bytes | None:
    return None if values is None else values.tobytes()


def test_a_sum_is_the_defined_one_to_the_last_bit(detector: Detector) -> None:
    """By one scorer that has met all the texts before, so that what was kept is part of it."""
    scorer = Scorer(detector.head, kept=LEAST)

    @settings(max_examples=400, deadline=None)
    @given(texts)
    def check(text: str) -> None:
        expected = defined(scorer, text)
        assert bits(scorer._words.sum(text)) == bits(expected)
        assert bits(scorer._words.sum(text)) == bits(expected), "the second time"
        if expected is not None:
            assert bits(scorer.scores(text)) == bits(from_sums(detector.head, expected[None])[0])

    check()


@pytest.mark.parametrize("text", ["", " \n\u3000", "a", "a a", "a" * 100_000, "pay " * 100_000, "İ" * 5_000, "ab?" * 5_000])
def test_empty_and_enormous_texts(detector: Detector, text: str) -> None:
    scorer = Scorer(detector.head)
    assert bits(scorer._words.sum(text)) == bits(defined(scorer, text))


def test_one_text_is_judged_as_in_a_batch(detector: Detector) -> None:
    head, scorer = detector.head, Scorer(detector.head)
    for text in [*[each.text for each in examples(40, 3)], *outsiders(40, 4), "?", "a"]:
        total = scorer._words.sum(text)
        assert total is not None
        assert bits(from_sum(head, total)) == bits(from_sums(head, total[None])[0])


def test_no_more_words_are_kept_than_said_and_the_common_ones_stay(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer(detector.head, kept=LEAST)
    table = scorer._words
    met: list[str] = []
    compute = table._added

    def watched(new: Sequence[str], hashes: Sequence[int]) -> Floats:
        met.extend(new)
        return compute(new, hashes)

    monkeypatch.setattr(table, "_added", watched)
    rng = random.Random(6)
    for number in range(60):
        # The common words come late, so that it is not their age that keeps them.
        text = ("how do i pay my invoice " if number > 20 else "") + " ".join(f"{rng.randrange(10**6):06}" for _ in range(250))
        assert bits(table.sum(text)) == bits(defined(scorer, text))
        assert len(table._words) <= LEAST
        assert sorted([*table._free, *table._words.values()]) == list(range(LEAST))
    assert met.index("invoice") > LEAST // 2
    assert len(met) > LEAST, "there was no need to forget"
    assert met.count("invoice") == 1, "what every text has was forgotten"


def test_runs_are_forgotten_before_they_take_much(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "KEPT_RUNS_CHARS_MAX", 1_000)
    scorer = Scorer(detector.head)
    table = scorer._words
    for number in range(100):
        text = f"pay-my-{number} " + "x?" * number
        assert bits(table.sum(text)) == bits(defined(scorer, text))
        assert sum(map(len, table._runs)) <= table._runs_chars <= 1_000 + TEXT_CHARS_MAX + 2 * words._RUN_CHARS
    assert "pay-my-0" not in table._runs


@pytest.mark.parametrize("alphabet", ["0123456789", "支付我的账单", "ab?!-", "x"])
def test_texts_of_nothing_but_new_words(detector: Detector, alphabet: str) -> None:
    """Of one word, of a few and of very many, with blanks and without."""
    scorer = Scorer(detector.head)
    rng = random.Random(alphabet)
    for count in [*range(1, 20), 100, TEXT_CHARS_MAX]:
        text = " ".join("".join(rng.choices(alphabet, k=rng.randint(1, 40))) for _ in range(count))
        expected = defined(scorer, text)
        assert bits(scorer._words.sum(text)) == bits(expected)
        assert bits(Scorer(detector.head)._words.sum(text)) == bits(expected), "by a scorer that has met nothing"


def bounded_sum(scorer: Scorer, text: str, rows_max: int) -> Floats | type[TooDearError] | None:
    try:
        return scorer._words.sum(text, rows_max)
    except TooDearError:
        return TooDearError


def test_a_bounded_sum_is_the_same_to_the_last_bit_or_refused(detector: Detector) -> None:
    """By one scorer that takes in more and more, as a worker's does; and what is refused takes in little."""
    scorer = Scorer(detector.head, kept=LEAST)
    table = scorer._words

    @settings(max_examples=400, deadline=None)
    @given(texts, st.sampled_from([0, 3, 40, 199, 1_191]))
    def check(text: str, rows_max: int) -> None:
        expected = defined(scorer, text)
        for _ in range(3):
            before = set(table._words)
            found = bounded_sum(scorer, text, rows_max)
            new = table._words.keys() - before
            assert len(new) <= words.NEW_WORDS_MAX
            assert words._NEW_WORD_ROWS * sum(map(len, new)) <= max(rows_max, words._ROOM_ROWS_MIN)
            if found is not TooDearError:
                assert bits(found) == bits(expected)  # type: ignore[arg-type]
                assert 2 * len(words_in(words.bounded(text).lower())) <= rows_max or expected is None

    check()


def test_a_text_of_ordinary_length_is_summed_once_its_words_have_been_met(detector: Detector) -> None:
    scorer = Scorer(detector.head)
    text = " ".join(["Please, tell me: where is order 123456, which I made on 7 November?", *[f"word{number}" for number in range(50)]])
    tries = 1
    while bounded_sum(scorer, text, 300) is TooDearError:
        tries += 1
    assert 3 < tries < 40
    assert bits(bounded_sum(scorer, text, 300)) == bits(defined(scorer, text))  # type: ignore[arg-type]


def test_however_wide_a_row_is_a_long_word_is_taken_in(detector: Detector) -> None:
    scorer = Scorer(detector.head)
    assert bits(bounded_sum(scorer, "responsibilities", 2)) == bits(defined(scorer, "responsibilities"))  # type: ignore[arg-type]
    assert bounded_sum(scorer, "x" * 17, 2) is TooDearError
    assert bounded_sum(scorer, "x" * 17, 340) is not TooDearError


def test_a_text_that_is_surely_too_long_takes_nothing_in(detector: Detector) -> None:
    scorer = Scorer(detector.head)
    assert bounded_sum(scorer, " ".join(f"w{number}" for number in range(100)), 199) is TooDearError
    assert bounded_sum(scorer, "x?" * 1_000, 1_191) is TooDearError
    assert scorer._words._words == {}


@pytest.mark.parametrize("most", [0, LEAST - 1, 1 << 17])
def test_a_table_that_could_not_hold_a_text_is_refused(most: int) -> None:
    with pytest.raises(ValueError, match=f"{most} words to keep: it must be {LEAST} to 65536"):
        WordRows(4, lambda new, _: np.zeros((len(new), 4), np.float32), most)


def test_blanks_part_runs_as_they_part_words() -> None:
    """Of every character there is: what `split` takes for a blank, no word has, and lower case is at most twice as long."""
    for code in range(sys.maxunicode + 1):
        sign = chr(code)
        assert bool(sign.split()) == bool(words_in(sign)), hex(code)
        assert len(sign.lower()) <= 2, hex(code)


@settings(max_examples=300, deadline=None)
@given(words_of)
def test_the_columns_of_a_word_are_the_hashes_of_its_n_grams(word: str) -> None:
    """By the string, gram by gram."""

    def hashed(text: str) -> int:
        return crc32(text.encode("utf-8", "surrogatepass"))

    padded = f" {word} "
    grams = [padded[i : i + size] for size in CHAR_SIZES for i in range(len(padded) - size + 1)]
    assert word_columns(word) == [*(hashed(gram) % (1 << CHAR_BITS) for gram in grams), (1 << CHAR_BITS) + hashed(word) % (1 << 13)]
    assert max(word_columns(word)) < FEATURES
