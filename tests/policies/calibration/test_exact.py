"""The exact test: it never says more than it may, and says nearly as much as it could."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.calibration.exact import ExactTest, p_value, share_above, share_below


@pytest.mark.parametrize(("n", "epsilon"), [(60, 0.05), (200, 0.03), (400, 0.01)])
@pytest.mark.parametrize("better", [0.0, 0.002, 0.01, 0.05, 0.2])
def test_size_at_the_edge_of_the_hypothesis(n: int, epsilon: float, better: float) -> None:
    """The chance to reject where the loss is exactly epsilon, by simulation: at most alpha and three standard errors."""
    alpha, draws = 0.1, 6_000
    random = np.random.default_rng(n)
    counts = random.multinomial(n, [better + epsilon, better, 1 - 2 * better - epsilon], size=draws)
    test = ExactTest(n, epsilon, alpha)
    wrong = np.mean([test.rejects(worse, good) for worse, good, _ in counts.tolist()])
    assert wrong <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / draws)


def test_it_is_the_binomial_test_where_nothing_is_better() -> None:
    """Without better answers the sharpest test is the binomial's: at n = 300 and 1 point no worse answer may be seen (0.99^300 = 4.9 %)."""
    assert p_value(298, 0, 0, 0.01) > 0.05
    assert p_value(310, 0, 0, 0.01) <= 0.05


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 400), st.integers(0, 15), st.integers(0, 15), st.sampled_from([0.01, 0.03, 0.1]))
def test_fewer_worse_answers_speak_louder(n: int, worse: int, better: int, epsilon: float) -> None:
    assert 0 < p_value(n, worse, better, epsilon) <= p_value(n, worse + 1, better, epsilon) <= 1


def test_shares_have_the_bounds_of_the_textbook() -> None:
    assert share_above(10, 0, 0.05) == pytest.approx(1 - 0.05**0.1)
    assert share_below(10, 10, 0.05) == pytest.approx(0.05**0.1)
    assert (share_below(10, 0, 0.05), share_above(10, 10, 0.05)) == (pytest.approx(0, abs=1e-9), 1.0)
