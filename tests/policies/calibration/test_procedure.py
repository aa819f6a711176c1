"""The whole procedure: the promise holds, something is saved, and nothing is where nothing can be."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from policies.calibrated import Binding, CalibrationError
from policies.calibration.learn import learn, scored
from policies.calibration.procedure import Terms, calibrate, certify, credit, evaluate, thresholds

from .lines import traffic

TERMS = Terms(0.02, 0.9, 0.2, 1.0)


def test_the_promise_is_kept_as_often_as_it_says() -> None:
    """200 calibrations at 90 %, each judged on much fresh traffic."""
    model = learn(traffic(2_000, 0))
    truth = traffic(200_000, 1)
    risk_truth, risk_train = scored(model, truth), scored(model, traffic(2_000, 0))
    grid = thresholds(risk_train, traffic(2_000, 0).loss, 400, TERMS.epsilon)
    broken = 0
    for seed in range(200):
        data = traffic(400, 100 + seed)
        found = certify(scored(model, data), data.loss, grid, TERMS, exact=True)
        broken += found is not None and float((truth.loss * (risk_truth >= found)).mean()) > TERMS.epsilon
    assert broken <= 20 + 2 * 4.3


@pytest.mark.parametrize("real", [False, True])
def test_it_saves_where_there_is_something_to_save(real: bool) -> None:
    found = calibrate(traffic(2_000, 1, real=real), traffic(2_000, 2, real=real), TERMS, Binding())
    judged = evaluate(found, traffic(20_000, 3, real=real))
    assert found.enabled
    assert found.test == ("betting" if real else "exact")
    assert judged["loss"] <= TERMS.epsilon
    assert judged["saving"] > 0.1
    assert found.saving.lower <= judged["saving"] <= found.saving.upper
    assert judged["saving"] == pytest.approx(1 - 0.2 - judged["deferred"])


def test_a_hopeless_pair_is_disabled_and_costs_nothing() -> None:
    found = calibrate(traffic(1_000, 1, hopeless=True), traffic(1_000, 2, hopeless=True), TERMS, Binding())
    assert not found.enabled
    assert "disabled" in found.promise
    assert evaluate(found, traffic(1_000, 3, hopeless=True)) == {"rows": 1000, "deferred": 1.0, "loss": 0.0, "saving": 0.0, "unscored": 0}
    assert found.defers({"confidence": 1.0, "class": 0.0}) is True


def test_a_cheap_model_that_costs_as_much_is_disabled() -> None:
    assert not calibrate(traffic(2_000, 1), traffic(2_000, 2), Terms(0.02, 0.9, 1.0, 1.0), Binding()).enabled


def test_more_is_saved_where_more_may_be_lost_and_with_more_lines() -> None:
    train = traffic(2_000, 2)

    def saved(lines: int, epsilon: float) -> float:
        return calibrate(traffic(lines, 5), train, Terms(epsilon, 0.9, 0.2, 1.0), Binding()).saving.estimate

    assert saved(2_000, 0.01) < saved(2_000, 0.02) < saved(2_000, 0.05)
    assert saved(300, 0.02) < saved(8_000, 0.02)


def test_without_training_lines_the_data_is_cut_in_disjoint_halves() -> None:
    found = calibrate(traffic(2_001, 1), None, TERMS, Binding())
    assert (found.rows_trained, found.rows_calibrated) == (1_000, 1_001)
    assert found == calibrate(traffic(2_001, 1), None, TERMS, Binding()), "the same lines give the same calibration"


def test_calibration_lines_choose_nothing_but_the_threshold() -> None:
    train = traffic(2_000, 2)
    one, other = (calibrate(traffic(1_000, seed), train, TERMS, Binding()) for seed in (3, 4))
    assert one.model == other.model


def test_lines_without_a_score_are_deferred() -> None:
    found = calibrate(traffic(2_000, 1), traffic(2_000, 2), TERMS, Binding())
    lines = traffic(1_000, 3)
    lines.features["confidence"][:400] = np.nan
    judged = evaluate(found, lines)
    assert judged["unscored"] == 400
    assert judged["deferred"] >= 0.4


def test_credit_of_better_answers_rises_with_lines() -> None:
    train = traffic(4_000, 2)
    model = learn(train)
    few, many = credit(model, train, 300, TERMS), credit(model, train, 30_000, TERMS)
    assert 0 <= few < many <= 1


@pytest.mark.parametrize(
    "change", [{"epsilon": 0.0}, {"epsilon": 1.0}, {"confidence": 0.2}, {"confidence": 1.0}, {"cost_large": 0.0}, {"cost_small": -1.0}]
)
def test_terms_that_make_no_sense_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(CalibrationError):
        msgspec.structs.replace(TERMS, **change).check()


def test_too_few_lines_are_refused() -> None:
    with pytest.raises(CalibrationError, match="too few to calibrate"):
        calibrate(traffic(5, 1), traffic(2_000, 2), TERMS, Binding())
    with pytest.raises(CalibrationError, match="too few to learn"):
        calibrate(traffic(500, 1), traffic(5, 2), TERMS, Binding())
