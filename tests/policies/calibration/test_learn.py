"""The learned score: better than the plain one, the same offline and in a worker, and honest about what it lacks."""

from __future__ import annotations

import numpy as np
import pytest

from policies import calibrated
from policies.calibrated import CalibrationError
from policies.calibration.learn import learn, scored
from policies.calibration.pairs import SEGMENT, Pairs

from .lines import traffic


def area(order: np.ndarray, loss: np.ndarray) -> float:
    """Mean loss over all shares of accepted lines: lower is better."""
    return float(np.cumsum(loss[order]).mean() / len(loss))


def test_it_beats_the_confidence_that_it_is_made_of() -> None:
    pairs, model = traffic(20_000, 9), learn(traffic(4_000, 8))
    assert model.split_by == "class", "whose levels err at different rates"
    plain = area(np.argsort(-pairs.features["confidence"]), pairs.loss)
    assert area(np.argsort(-scored(model, pairs)), pairs.loss) < 0.9 * plain


def test_the_evaluator_of_a_worker_gives_the_same_score() -> None:
    pairs, model = traffic(300, 9), learn(traffic(4_000, 8))
    one_by_one = [calibrated.score(model, pairs.row(index)) for index in range(len(pairs))]
    assert one_by_one == pytest.approx(scored(model, pairs).tolist(), abs=1e-9)


def test_segments_are_learned_from() -> None:
    pairs = traffic(4_000, 8)
    names = np.where(pairs.features["class"] > 0, "acme", "globex").tolist()
    told = Pairs({"confidence": pairs.features["confidence"]}, pairs.loss, True, names)
    model = learn(told)
    assert model.split_by == SEGMENT
    row = told.row(0)
    assert row[SEGMENT] == names[0]
    assert calibrated.score(model, row) == pytest.approx(float(scored(model, told)[0]))
    assert calibrated.score(model, {"confidence": 0.5}) is None
    assert calibrated.score(model, {"confidence": 0.5, SEGMENT: "a new one"}) is not None


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_missing_feature_leaves_no_score(value: float | None) -> None:
    model = learn(traffic(1_000, 8))
    features = {"class": 1.0} | ({"confidence": value} if value is not None else {})
    assert calibrated.score(model, features) is None


def test_features_that_say_nothing_are_left_out_and_none_is_an_error() -> None:
    pairs = traffic(1_000, 8)
    pairs.features["constant"] = np.ones(1_000)
    pairs.features["sometimes"] = np.where(np.arange(1_000) % 2, np.nan, 1.0)
    assert set(learn(pairs).features) == {"confidence", "class"}
    with pytest.raises(CalibrationError, match="no feature"):
        learn(Pairs({"constant": np.ones(1_000)}, pairs.loss, True, None))


def test_wild_values_are_scored() -> None:
    model = learn(traffic(1_000, 8))
    for wild in (-1e300, 0.0, 1.0, 1e300):
        found = calibrated.score(model, {"confidence": wild, "class": 0.0})
        assert found is not None
        assert 0 <= found <= 2
