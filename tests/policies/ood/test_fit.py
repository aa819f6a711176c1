from __future__ import annotations

import msgspec
import numpy as np
import pytest

from policies.ood.artifact import Detector, dumps, loads
from policies.ood.calibrate import CalibrationError
from policies.ood.energy import SCORES, Scorer, from_sums
from policies.ood.fit import CLASSES_MAX, STEPS, Example, FitError, Fitted, fit
from policies.ood.mixing import auroc, fpr95
from policies.ood.train import count, sums

from .generated import examples, outsiders, small


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return small()


def scores(detector: Detector, texts: list[str]) -> np.ndarray:
    scorer = Scorer(detector.head)
    return np.array([scorer.score(text).score for text in texts])


def test_it_tells_other_texts_from_its_own(fitted: Fitted) -> None:
    inside = scores(fitted.detector, [each.text for each in examples(200, 3)])
    outside = scores(fitted.detector, outsiders(200, 4))
    assert auroc(inside, outside) > 98
    limit = fitted.detector.calibration.threshold(95).score
    assert (outside > limit).mean() > 0.9
    assert (inside > limit).mean() < 0.12


def test_without_labels_texts_are_clustered() -> None:
    found = small(labels=False)
    assert found.detector.facts.clustered
    assert found.detector.facts.classes >= 4
    inside = scores(found.detector, [each.text for each in examples(200, 3)])
    assert auroc(inside, scores(found.detector, outsiders(200, 4))) > 95


def test_outliers_widen_the_margin_of_energy(fitted: Fitted) -> None:
    taught = small(outliers=60).detector
    inside = [each.text for each in examples(100, 3)]
    outside = outsiders(100, 6)

    def gap(detector: Detector) -> float:
        scorer = Scorer(detector.head)
        near, far = ([scorer.score(text).energy for text in texts] for texts in (inside, outside))
        return float((np.mean(far) - np.mean(near)) / np.std(near))

    assert taught.facts.outliers == 60
    assert gap(taught) > gap(fitted.detector)


def test_the_same_texts_give_the_same_file(fitted: Fitted) -> None:
    assert dumps(small().detector) == dumps(fitted.detector)


def test_a_scorer_and_the_batch_agree(fitted: Fitted) -> None:
    texts = [each.text for each in examples(20, 8)] + outsiders(20, 9)
    head = fitted.detector.head
    one_by_one = np.stack([row for text in texts if (row := Scorer(head).scores(text)) is not None])
    np.testing.assert_allclose(one_by_one, from_sums(head, sums(head, count(texts))), rtol=1e-3, atol=1e-4)


def test_calibration_is_of_the_holdout_as_it_is_scored_live(fitted: Fitted) -> None:
    live = scores(fitted.detector, [each.text for each in examples(450, 2)])
    assert np.array_equal(fitted.holdout, live)
    assert np.array_equal(fitted.detector.calibration.scores, np.sort(live))
    assert set(fitted.detector.calibration.segments) == {"even", "odd"}


def test_the_mix_is_told(fitted: Fitted) -> None:
    facts = fitted.detector.facts
    assert tuple(facts.mix) == SCORES
    assert sum(facts.mix.values()) == pytest.approx(1)
    assert 50 < facts.pseudo_auroc <= 100


def test_progress_is_told_as_often_as_said() -> None:
    told: list[str] = []
    fit(examples(64, 1), examples(40, 2), progress=told.append)
    assert len(told) == STEPS


def test_what_cannot_be_fitted_is_refused() -> None:
    good = examples(64, 1)
    with pytest.raises(FitError, match="3 training texts"):
        fit([*good[:3], Example("  ")], good)
    with pytest.raises(FitError, match="1 of 65 training texts have no label"):
        fit([*good, Example("no label here")], good)
    with pytest.raises(FitError, match=f"at most {CLASSES_MAX}"):
        fit([Example(f"text {n}", str(n)) for n in range(CLASSES_MAX + 1)], good)
    with pytest.raises(CalibrationError, match="held-out texts"):
        fit(good, [])
    with pytest.raises(CalibrationError, match="at least 19 held-out texts, and there are 5"):
        fit(good, examples(5, 2)).detector.calibration.threshold(95)


def test_one_label_is_as_good_as_none() -> None:
    same = [msgspec.structs.replace(each, label="all") for each in examples(64, 1)]
    assert fit(same, examples(40, 2)).detector.facts.clustered


def test_measures() -> None:
    assert auroc(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 100
    assert auroc(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 50
    assert fpr95(np.arange(100.0), np.array([0.0, 1000.0])) == 50


def test_one_text_a_class_is_fitted() -> None:
    found = fit([Example(f"pay invoice {n} of the shop", str(n)) for n in range(40)], examples(40, 2))
    assert loads(dumps(found.detector)).facts == found.detector.facts


def test_the_same_text_again_and_again_is_refused() -> None:
    with pytest.raises(FitError, match="all but a few texts are of one class"):
        fit([Example("same words")] * 40, examples(40, 2))
