"""Scores of evidence: what they are worth by hand, the laws they keep, and what broken evidence becomes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.scores import TOP_SCORES, UNAVAILABLE, Scores, Tally, TopScore, features, score, worst

logprobs = st.lists(st.floats(-50, 0), min_size=1, max_size=40)
logits = st.lists(st.lists(st.floats(-30, 30), min_size=2, max_size=8), min_size=1, max_size=10)


def test_scores_by_hand() -> None:
    found = score([-0.5, -1.5], [[-0.5, -2.5], [-1.5, -1.75]])
    assert (found.status, found.tokens, found.mean_logprob, found.min_logprob) == ("ok", 2, -1.0, -1.5)
    assert found.perplexity == pytest.approx(math.e)
    assert found.margin == pytest.approx((2.0 + 0.25) / 2)
    assert found.first_margin == pytest.approx(2.0)
    assert found.energy is None, "log-probabilities have no energy"
    assert (found.quantile_logprob(0), found.quantile_logprob(0.5), found.quantile_logprob(1)) == (-1.5, -1.5, -0.5)


def test_entropy_counts_what_lies_outside_the_top() -> None:
    found = score([math.log(0.5)], [[math.log(0.5), math.log(0.25)]])
    assert found.entropy == pytest.approx(-(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)))


@given(logprobs)
def test_scores_of_log_probabilities_keep_their_order(values: list[float]) -> None:
    found = score(values)
    assert found.mean_logprob is not None
    assert found.min_logprob is not None
    assert found.perplexity is not None
    assert found.min_logprob == min(values)
    assert min(values) - 1e-9 <= found.mean_logprob <= max(values) + 1e-9
    assert found.perplexity == pytest.approx(math.exp(-found.mean_logprob))
    quantiles = [found.quantile_logprob(q / 10) for q in range(11)]
    assert quantiles == sorted(quantiles, key=lambda each: each if each is not None else 0)


@given(logits, st.floats(-20, 20))
def test_energy_moves_with_the_logits_and_confidence_does_not(tops: list[list[float]], shift: float) -> None:
    found = score([max(top) for top in tops], tops, logits=True)
    moved = score([max(top) + shift for top in tops], [[each + shift for each in top] for top in tops], logits=True)
    assert found.status == "partial", "top-k logits are normalised over the top k"
    assert moved.energy == pytest.approx(found.energy - shift if found.energy is not None else None, abs=1e-6)
    assert moved.mean_logprob == pytest.approx(found.mean_logprob, abs=1e-6)
    assert moved.entropy == pytest.approx(found.entropy, abs=1e-6)


def test_top_k_energy_is_an_upper_bound() -> None:
    whole, top = score([3.0], [[3.0, 2.0, 1.0, 0.0]], logits=True), score([3.0], [[3.0, 2.0]], logits=True)
    assert whole.energy is not None
    assert top.energy is not None
    assert whole.energy < top.energy


@given(logprobs)
def test_token_by_token_is_the_same_as_at_once(values: list[float]) -> None:
    tally = Tally()
    for each in values:
        tally.add(each)
    assert tally.scores() == score(values)
    assert len(tally) == len(values)


@pytest.mark.parametrize("impossible", [-9999.0, -math.inf, -1e30])
def test_what_stands_for_minus_infinity_is_it(impossible: float) -> None:
    found = score([-0.1, impossible])
    assert (found.status, found.mean_logprob, found.min_logprob, found.perplexity) == ("ok", -math.inf, -math.inf, math.inf)
    assert all(map(math.isfinite, features(found).values()))


def test_an_impossible_runner_up_is_far_but_finite() -> None:
    found = score([0.0], [[0.0, -9999.0]])
    assert found.margin == 9999.0
    assert found.entropy == 0.0


@pytest.mark.parametrize(
    "given_",
    [
        ([], None),
        ([math.nan], None),
        ([-0.1, None], None),
        ([-0.1, math.inf], None),
        ([-0.1], [[-0.1, math.nan]]),
        ([-0.1], []),
        ([True], None),
    ],
    ids=["empty", "nan", "none", "inf", "nan in top", "lengths differ", "not a number"],
)
def test_what_is_no_evidence_is_unavailable(given_: tuple[list[float], list[list[float]] | None]) -> None:
    assert score(*given_) == UNAVAILABLE
    assert features(UNAVAILABLE) == {}


def test_logits_without_a_top_are_unavailable() -> None:
    assert score([3.2], logits=True) == UNAVAILABLE


def test_truncated_and_partial_are_said() -> None:
    assert score([-0.1], truncated=True).status == "truncated"
    assert score([-0.1, -0.2], [[-0.1, -3.0], None]).status == "partial"


def test_a_quantile_is_a_share() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        score([-0.1]).quantile_logprob(10)


@given(st.lists(st.lists(st.floats(-30, 0), min_size=1, max_size=6), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_the_likeliest_does_not_matter(tops: list[list[float]], random: Any) -> None:
    """vLLM puts the chosen token first, whatever its rank."""
    ordered = score([max(top) for top in tops], [sorted(top, reverse=True) for top in tops])
    mixed = score([max(top) for top in tops], [random.sample(top, len(top)) for top in tops])
    assert mixed.margin == pytest.approx(ordered.margin)
    assert mixed.first_margin == ordered.first_margin
    assert mixed.entropy == pytest.approx(ordered.entropy)


@given(logits, st.booleans(), st.sets(st.sampled_from(sorted(TOP_SCORES))))
def test_what_is_not_wanted_is_not_there_and_changes_nothing_else(tops: list[list[float]], raw: bool, wanted: set[TopScore]) -> None:
    tops = tops if raw else [[each - 30.0 for each in top] for top in tops]
    all_of_it, some = Tally(logits=raw), Tally(logits=raw, wanted=wanted)
    for top in tops:
        all_of_it.add(max(top), top)
        some.add(max(top), top)
    full, found = all_of_it.scores(), some.scores()
    assert found.margin == (full.margin if "margin" in wanted else None)
    assert found.entropy == (full.entropy if "entropy" in wanted else None)
    assert found.energy == full.energy
    assert (found.mean_logprob, found.sorted_logprobs, found.status) == (full.mean_logprob, full.sorted_logprobs, full.status)


@pytest.mark.parametrize(("logprob", "top"), [(0.01, None), (-0.1, [0.01, -0.1]), ("-0.1", None), (-0.1, ["x"]), (-0.1, [[]])])
def test_what_cannot_be_a_log_probability_is_unavailable(logprob: object, top: list[object] | None) -> None:
    """Logits in the place of log-probabilities, or another type."""
    tally = Tally()
    tally.add(-0.1, [-0.1])
    tally.add(logprob, top)
    tally.add(-0.1, [-0.1])
    assert tally.scores() == UNAVAILABLE


def test_a_rounding_error_above_zero_is_zero() -> None:
    assert score([1e-6], [[1e-6, -14.0]]).mean_logprob == 0.0


def test_the_worst_of_several_choices_is_the_worst_in_every_respect() -> None:
    sure = score([-0.1, -0.2, -0.3], [[-0.1, -5.0], [-0.2, -5.0], [-0.3, -5.0]])
    unsure = score([-0.05, -2.0], [[-0.05, -4.0], [-2.0, -2.1]])
    both = worst([sure, unsure])
    assert both.status == "ok"
    assert both.mean_logprob == unsure.mean_logprob
    assert both.min_logprob == unsure.min_logprob
    assert both.first_margin == unsure.first_margin
    assert both.entropy == unsure.entropy
    assert both.perplexity == unsure.perplexity
    assert worst([sure]) is sure


@given(st.lists(logprobs, min_size=1, max_size=4), st.floats(0, 1))
def test_no_choice_has_a_worse_quantile_than_the_worst(choices: list[list[float]], q: float) -> None:
    found = worst([score(each) for each in choices]).quantile_logprob(q)
    least = min(score(each).quantile_logprob(q) or 0.0 for each in choices)
    assert found is not None
    assert found <= least
    if len({len(each) for each in choices}) == 1:
        assert found == least


@pytest.mark.parametrize(
    ("choices", "status"),
    [
        ([score([-0.1]), UNAVAILABLE], "unavailable"),
        ([], "unavailable"),
        ([score([-0.1], truncated=True), score([-0.1], [[-0.1, -3.0]])], "truncated"),
        ([score([1.0], [[1.0]], logits=True), score([-0.1])], "partial"),
    ],
)
def test_the_worst_status_is_the_status(choices: list[Scores], status: str) -> None:
    assert worst(choices).status == status
