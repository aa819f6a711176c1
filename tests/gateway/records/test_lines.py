"""Calibration lines from audited records: a fair sample, whatever was audited how often."""

from __future__ import annotations

import json

import msgspec
import pytest
from msgspec.structs import replace

from gateway.cli.explain import from_json
from gateway.link.messages import AssessmentRecord, ExchangeRecord, ScoresRecord
from gateway.records.decided import audit_of, decided
from gateway.records.lines import gather
from gateway.records.story import to_json
from policies.calibrated import Binding
from policies.calibration.procedure import Terms, calibrate, evaluate
from policies.scores import MINUS_INFINITY
from tests.gateway.control.audited import accepted, deferred, traffic
from tests.gateway.records.examples import AUDITED, DEFERRED, RECORD

V = "v1"


@pytest.mark.parametrize("percents", [(100.0, 100.0), (20.0, 20.0), (10.0, 50.0), (60.0, 15.0)])
def test_the_lines_are_a_fair_sample_whichever_side_is_audited_more(percents: tuple[float, float]) -> None:
    """Thinned lines show the shares of all requests: how many are deferred, and how many of all disagree."""
    records = list(traffic(V, 8_000, 1, percents=percents))
    everything = list(traffic(V, 8_000, 1))
    found = gather(records, "chat", "small", {V: percents})
    assert len(found.lines) == pytest.approx(8_000 * min(percents) / 100, rel=0.1)
    share = sum(line.deferred for line in found.lines) / len(found.lines)
    assert share == pytest.approx(sum(decided(each) == "deferred" for each in everything) / 8_000, abs=0.04)
    agreed = sum(line.agreed for line in found.lines) / len(found.lines)
    assert agreed == pytest.approx(sum(each.audits[0].agreed is True for each in everything) / 8_000, abs=0.03)
    assert (found.thinned > 0) == (percents[0] != percents[1])


def test_a_line_is_what_a_worker_would_judge() -> None:
    scores = ScoresRecord("ok", 24, -0.2, -1.0, (-0.9, -0.3, -0.1), 1.5, 2.5, 0.4, None)
    one = accepted(1, V, scores=scores, segments=(("tenant", "acme"),))
    found = gather([one, deferred(2, V, False, segments=(("tenant", "acme"),))], "chat", "small", {V: (100, 100)})
    first, second = found.lines
    assert first.features == {
        "mean_logprob": -0.2,
        "min_logprob": -1.0,
        "quantile_logprob_0.1": -0.9,
        "quantile_logprob_0.25": -0.3,
        "quantile_logprob_0.5": -0.1,
        "tokens": 24.0,
        "margin": 1.5,
        "first_margin": 2.5,
        "entropy": 0.4,
    }
    assert (first.segment, first.deferred, first.agreed) == ("acme", False, True)
    assert (second.deferred, second.agreed) == (True, False)
    pairs = found.pairs()
    assert pairs.loss.tolist() == [0.0, 1.0]
    assert pairs.binary
    assert pairs.digest.startswith("sha256:")


def test_an_impossible_token_survives_json() -> None:
    scores = ScoresRecord("ok", 2, float("-inf"), float("-inf"), (float("-inf"), -1.0, -1.0))
    record = from_json(json.loads(json.dumps(to_json(accepted(1, V, scores=scores)))))
    wired = from_json(msgspec.json.decode(msgspec.json.encode(to_json(accepted(1, V, scores=scores)))))
    for each in (record, wired):
        (line,) = gather([each], "chat", "small", {V: (100, 100)}).lines
        assert line.features["mean_logprob"] == line.features["quantile_logprob_0.1"] == MINUS_INFINITY


def test_what_a_guard_found_is_a_feature() -> None:
    one = accepted(1, V)
    assert one.findings is not None
    guarded = replace(one, findings=replace(one.findings, assessment=AssessmentRecord("ok", 1.25, -7.5)))
    (line,) = gather([guarded], "chat", "small", {V: (100, 100)}).lines
    assert (line.features["ood_score"], line.features["ood_energy"]) == (1.25, -7.5)


def test_what_is_no_line_is_counted() -> None:
    untold = accepted(1, V, None, "too_long")
    records = [
        untold,
        accepted(2, V, None, "busy"),
        accepted(3, V, scores=ScoresRecord("truncated", 5, -0.1, -0.1)),
        accepted(4, V, scores=None),
        accepted(5, "v0"),
        accepted(6, "one-sided"),
        accepted(7, V, audited=False),
        RECORD,
    ]
    found = gather(records, "chat", "small", {V: (100, 100), "one-sided": (100, 0)})
    assert [(line.exchange_id, line.agreed) for line in found.lines] == [("ex-1", False)]
    assert (found.untold, found.unrelated, found.unscored, found.other_policies) == (1, 1, 2, 2)


def test_percentages_that_changed_are_thinned_to_the_smallest() -> None:
    records: list[ExchangeRecord] = [*traffic("a", 2_000, 1, percents=(50, 50)), *traffic("b", 2_000, 2, percents=(10, 40), start=2_000)]
    found = gather(records, "chat", "small", {"a": (50, 50), "b": (10, 40)})
    counts = [sum(line.version == version for line in found.lines) for version in "ab"]
    assert counts[0] == pytest.approx(200, abs=50)
    assert counts[1] == pytest.approx(200, abs=50)


def test_what_a_cascade_decided() -> None:
    assert decided(RECORD) is None
    assert decided(DEFERRED) == "deferred"
    assert decided(accepted(1, V)) == "accepted"
    assert decided(accepted(1, V, code=499)) is None, "half an answer cannot be compared, whoever is to blame"
    assert decided(accepted(1, V, code=502)) is None
    assert decided(accepted(1, V, backend="")) is None
    found = audit_of(AUDITED, "audit_deferred", "small")
    assert found is not None
    assert found.agreed
    assert audit_of(AUDITED, "audit_deferred", "tiny") is None
    assert audit_of(RECORD, "audit_accepted") is None


def test_the_promise_of_agreement_is_kept_by_a_calibration_of_records() -> None:
    """Calibrated on audits at 30 % and 60 %, it keeps epsilon on all of the traffic."""
    records = list(traffic(V, 12_000, 3, percents=(30, 60)))
    pairs = gather(records, "chat", "small", {V: (30.0, 60.0)}).pairs()
    made = calibrate(pairs, None, Terms(0.03, 0.95, 0.1, 1.0, "agreement"), Binding(backend="small", prefix_tokens=24))
    assert made.enabled
    assert "disagree with the large model's on at most 3 % of all requests" in made.promise
    judged = evaluate(made, gather(traffic(V, 12_000, 9), "chat", "small", {V: (100.0, 100.0)}).pairs())
    assert judged["loss"] <= 0.03
    assert judged["saving"] > 0.3
