"""The short form of the benchmark on real engines, on the embedded models; the long one is `python -m loadtests.engines`."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from gateway.embedded import corpus, fit
from loadtests import engines, engines_asked
from loadtests.engines_asked import Reply
from loadtests.engines_figures import figures, missed, table, wilson
from policies.load import load

SHORT = 40


def test_guard_and_cascade_together_beat_the_specialist_and_spare_the_generalist(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    assert engines.main(["--engine", "embedded", "--calibration", "demo", "--requests", str(SHORT), "--output", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["engines"]["embedded"]
    rows = found["set_ups"]
    right, spent = ({name: row[key]["share"] for name, row in rows.items()} for key in ("accuracy", "by_generalist"))
    assert found["missed"] == []
    assert (spent["specialist"], spent["generalist"]) == (0, 1)
    assert right["both"] >= right["specialist"] + 0.2, "a third of the workload is nothing that the specialist knows"
    assert right["both"] >= right["generalist"] - 0.1
    assert 0.3 <= spent["both"] <= 0.8
    assert rows["both"]["sent_on_by_guard"]["share"] == rows["guard"]["sent_on_by_guard"]["share"] > 0.25
    assert rows["cascade"]["deferred"]["share"] > 0 == rows["cascade"]["sent_on_by_guard"]["share"]


def test_a_calibration_of_too_few_lines_saves_nothing_and_that_is_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    assert engines.main(["--engine", "embedded", "--lines", "60", "--requests", "10", "--output", "json"]) == 1
    found = json.loads(capsys.readouterr().out)["engines"]["embedded"]
    assert [made["enabled"] for made in found["calibrations"].values()] == [False, False]
    assert found["missed"] == ["cascade: everything went to the generalist", "both: everything went to the generalist"]
    assert found["demo_calibration_here"]["unscored"] == 0, "the demo's goes by what was collected too"


def test_an_engine_that_is_not_here_is_skipped_with_the_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEADGATE_ENGINE_CACHE", str(tmp_path))
    assert engines.main(["--engine", "vllm", "--engine", "llama-server", "--output", "json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)["engines"]
    assert found["vllm"] == {"skipped": "vllm is not installed: run `python -m tests.engines.install vllm`"}
    assert "llama-server: skipped: llama is not installed" in printed.err


def test_the_workload_is_mixed_and_nobody_has_seen_it() -> None:
    found = engines_asked.workload(100)
    assert found == engines_asked.workload(100)
    foreign = [each for each in found if each.task in engines_asked.FOREIGN]
    assert (len(found), len(foreign), len({each.prompt for each in found})) == (100, 40, 100)
    assert {each.task for each in foreign} == set(engines_asked.FOREIGN)
    assert {each.task for each in found[:50]} >= {"tickets", "capitals"}, "they come mixed"
    certified = {each.prompt for each in fit.drawn(corpus.traffic(fit.CERTIFY.seed), fit.CERTIFY.texts)}
    assert certified.isdisjoint(each.prompt for each in found)
    with pytest.raises(ValueError, match="held-out examples of capitals"):
        engines_asked.workload(10_000)


@pytest.mark.parametrize("name", list(engines.SUBJECTS))
def test_the_policy_of_every_engine_compiles(name: str) -> None:
    """A calibration made of log-probabilities does not compile for logits: such an engine has one of its own."""
    subject = engines.SUBJECTS[name]
    urls = dict.fromkeys(engines.MODELS, "http://127.0.0.1:1") if subject.program else {}
    rules = engines.demo_rules()
    files = {fit.DETECTOR: (fit.FITTED / fit.DETECTOR).read_bytes(), **{f"{each}.json": data for each, data in rules.calibrations.items()}}
    alone = load(engines.policy(subject, urls, None).encode(), name="p", read=files.__getitem__, env={})
    assert {route.name for route in alone.policy.routes} == set(engines.MODELS)
    whole = engines.policy(subject, urls, rules).encode()
    if subject.evidence == "logits":
        with pytest.raises(Exception, match="does not hold here"):
            load(whole, name="p", read=files.__getitem__, env={})
        whole = engines.policy(subject, urls, engines.Rules({}, -12.5)).encode()
    names = {route.name for route in load(whole, name="p", read=files.__getitem__, env={}).policy.routes}
    assert names == {*engines.MODELS, "guard", *(["energy"] if subject.evidence == "logits" else engines.CALIBRATED)}


def test_a_threshold_on_energy_defers_the_share_that_is_asked_for() -> None:
    lines: list[Any] = [{"evidence": {"logprobs": [logit], "top_logprobs": [[logit, logit]]}} for logit in range(10)]
    energies = sorted(-(logit + math.log(2)) for logit in range(10))
    assert engines.energy_that_defers(0.3, lines) == pytest.approx(energies[6]), "three lie above"


def test_a_line_keeps_what_the_guard_lets_through() -> None:
    lines: list[Any] = [{"quality": {"small": 1, "large": 1}}, {"quality": {"small": 0, "large": 1}}]
    seen = [{"score": 0.2, "ood": False}, {"score": 2.5, "ood": True}]
    assert engines_asked.judged(lines, seen) == [{"quality": {"small": 1, "large": 1}, "features": {"ood_score": 0.2}}]


def test_the_range_of_a_share() -> None:
    """The first two are worked examples of Newcombe (1998), table I."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson(0, 0) == (0, 1)


def replies(right: int, backend: str = "generalist", reason: str = "primary", count: int = 10, **more: Any) -> list[Reply]:
    return [Reply("tickets", number < right, backend, reason, **more) for number in range(count)]


def test_what_must_not_be() -> None:
    good = {
        "specialist": figures(replies(5, "specialist")),
        "generalist": figures(replies(9)),
        "guard": figures(replies(4, "specialist", count=5) + replies(4, reason="ood", count=5)),
        "cascade": figures(replies(4, "specialist", count=5) + replies(4, reason="low_confidence", count=5)),
        "both": figures(replies(4, "specialist", count=5) + replies(5, reason="ood", count=5)),
    }
    assert missed(good) == []
    bad = good | {
        "generalist": figures(replies(9, failed="it broke")),
        "guard": figures(replies(5, reason="failover")),
        "cascade": figures(replies(6, "specialist", leaked=True)),
        "both": figures(replies(9, reason="low_confidence")),
    }
    assert missed(bad) == [
        "generalist: 10 requests failed: it broke",
        "guard: answers for the reasons failover",
        "cascade: 10 answers had log-probabilities that nobody asked for",
        "guard: no better than the specialist alone, 50.0% against 50.0%",
        "guard: everything went to the generalist",
        "both: everything went to the generalist",
    ]
    row = {"set_ups": good, "calibrations": {}, "missed": ["both: why"]}
    shown = table({"engines": {"vllm": row, "other": {"skipped": "not here"}}})
    assert "| both | 90.0 % (59.6 to 98.2) |" in shown
    assert "MISSED  both: why" in shown
    assert "other: skipped: not here" in shown
