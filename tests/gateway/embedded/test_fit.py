"""The shipped detector and calibration: made from the texts that are generated today, and by steps that work."""

from __future__ import annotations

import hashlib
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from gateway.embedded import corpus, fit
from gateway.embedded.engine import Library
from policies import calibrated
from policies.calibrated import Binding
from policies.ood.artifact import loads


@pytest.fixture(scope="module")
def card() -> Any:
    return json.loads((fit.FITTED / fit.CARD).read_text())


def test_the_detector_is_of_the_texts_that_are_generated_today(card: Any, tmp_path: Path) -> None:
    facts = loads((fit.FITTED / fit.DETECTOR).read_bytes()).facts
    assert (facts.train_texts, facts.holdout_texts, facts.classes, facts.clustered) == (fit.TRAIN.texts, fit.HOLDOUT.texts, 6, False)
    for name, lines in (("train", fit.training_lines()), ("holdout", fit.traffic_lines(fit.HOLDOUT))):
        written = fit.written(tmp_path / name, lines)
        assert hashlib.sha256(written.read_bytes()).hexdigest() == card["detector"]["texts"][name]


def test_the_calibration_is_for_the_specialist_and_saves_something(card: Any) -> None:
    found = calibrated.read((fit.FITTED / fit.CALIBRATION).read_bytes())
    assert found.binding == Binding(backend="specialist", prefix_tokens=fit.HOLD_TOKENS)
    assert found.enabled
    assert found.promise == card["calibration"]["promise"]
    assert card["calibration"]["evaluation"]["loss"] <= found.epsilon


def test_traffic_is_never_trained_on_nor_what_the_threshold_is_judged_on() -> None:
    trained = {line["text"] for line in fit.training_lines()}
    served = {line["text"] for line in fit.traffic_lines(fit.HOLDOUT)}
    assert served.isdisjoint(trained)
    seeds = (fit.LEARN.seed, fit.CERTIFY.seed, fit.JUDGE.seed)
    learned, certified, judged = ({each.prompt for each in islice(corpus.traffic(seed), 300)} for seed in seeds)
    assert learned != certified != judged


@pytest.mark.parametrize(("task", "label"), [("tickets", "sales"), ("json", "account"), ("replies", "billing")])
def test_the_label_of_an_example_is_the_tickets(task: str, label: str) -> None:
    examples = (each for each in corpus.specialist(5) if each.task == task)
    assert label in {fit.label_of(each) for each in islice(examples, 60)}


def test_a_pair_has_the_real_log_probabilities(library: Library) -> None:
    (example,) = corpus.evaluation("tickets", 1)
    found = fit.pair(library, example, -1.5)
    assert found["quality"] == {"small": 1, "large": 1}
    assert found["features"] == {"ood_score": -1.5}
    logprobs, top = found["evidence"]["logprobs"], found["evidence"]["top_logprobs"]
    assert len(logprobs) == len(top) == 2, "a label, and the end"
    assert [max(each) for each in top] == logprobs
    assert all(len(each) == fit.TOP for each in top)


def test_what_a_command_refuses_is_said_without_a_traceback(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit, "fit_detector", lambda work: {})
    monkeypatch.setattr(fit, "load_library", lambda: library)
    monkeypatch.setattr(fit, "pairs", lambda *args: [])
    monkeypatch.setattr("sys.argv", ["fit", "--out", str(tmp_path / "fitted")])
    with pytest.raises(SystemExit, match="`headgate calibrate cascade` has refused, as it says above; nothing was written"):
        fit.main()
    assert "has no lines" in capfd.readouterr().err
    assert list((tmp_path / "fitted").iterdir()) == []


def test_both_are_made_by_the_commands_that_anybody_has(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("TRAIN", 120), ("HOLDOUT", 60), ("LEARN", 60), ("CERTIFY", 60), ("JUDGE", 40)):
        monkeypatch.setattr(fit, name, fit.Part(getattr(fit, name).seed, count))
    monkeypatch.setattr(fit, "FOREIGN", ("capitals",))
    facts = fit.fit_detector(tmp_path)
    assert facts["auroc"]["capitals"] > 80
    assert fit.calibrate(tmp_path, library)["enabled"] is False, "60 lines cannot show so much"
    assert calibrated.read((tmp_path / fit.CALIBRATION).read_bytes()).binding.backend == "specialist"
