from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.ood.calibrate import SEGMENT_TEXTS_MIN, CalibrationError, beta_interval, calibration, threshold


def test_the_threshold_is_the_conformal_one() -> None:
    """n = 1,000: 50 scores may lie above, floor(1,001 * 0.05), the threshold's own included."""
    found = threshold(np.arange(1000.0), 95)
    assert found.score == 950
    assert found.texts == 1000


def test_nineteen_texts_are_the_fewest_for_95_percent() -> None:
    assert threshold(np.arange(19.0), 95).score == 18
    with pytest.raises(CalibrationError, match="at least 19 held-out texts, and there are 18"):
        threshold(np.arange(18.0), 95)


@given(st.lists(st.floats(-9, 9), min_size=200, max_size=300), st.floats(50, 99), st.floats(50, 99))
def test_keeping_more_never_lowers_the_threshold(scores: list[float], one: float, other: float) -> None:
    ascending = np.sort(scores)
    low, high = sorted((one, other))
    assert threshold(ascending, low).score <= threshold(ascending, high).score


def test_new_texts_are_kept_as_often_as_promised() -> None:
    rng = np.random.default_rng(4)
    kept = [(rng.standard_normal(200) <= threshold(np.sort(rng.standard_normal(500)), 95).score).mean() for _ in range(400)]
    assert np.mean(kept) == pytest.approx(0.95, abs=0.004)
    found = threshold(np.sort(rng.standard_normal(500)), 95)
    assert 0.93 < found.kept_low < 0.95 < found.kept_high < 0.97


@pytest.mark.parametrize(("a", "b"), [(19, 1), (476, 25), (1, 1), (95_000, 5_001)])
def test_the_interval_is_that_of_scipy(a: int, b: int) -> None:
    from scipy.stats import beta

    assert beta_interval(a, b, 0.9) == pytest.approx(tuple(beta.ppf([0.05, 0.95], a, b)), abs=1e-6)


def test_a_segment_has_its_own_threshold_where_it_is_large_enough() -> None:
    scores = np.concatenate([np.arange(SEGMENT_TEXTS_MIN) + 1000.0, np.arange(SEGMENT_TEXTS_MIN - 1.0), np.arange(300.0)])
    names = ["large"] * SEGMENT_TEXTS_MIN + ["small"] * (SEGMENT_TEXTS_MIN - 1) + [None] * 300
    found = calibration(scores, names)
    assert set(found.segments) == {"large"}
    assert found.threshold(95, "large").score > 1000
    assert found.threshold(95, "small") == found.threshold(95, "never seen") == found.threshold(95)


def test_bad_input_is_refused() -> None:
    for scores in (np.array([]), np.array([1.0, np.nan]), np.array([np.inf])):
        with pytest.raises(CalibrationError, match="finite score"):
            calibration(scores, [None] * len(scores))
    for keep in (0, 100, float("nan")):
        with pytest.raises(CalibrationError, match="keep_percent"):
            threshold(np.arange(100.0), keep)
