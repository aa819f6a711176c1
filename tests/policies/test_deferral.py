"""Deferral rules: thresholds, combinations, learned scores."""

import math
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from policies import scores
from policies.calibrated import write
from policies.deferral import FEATURES, Condition, Finding, Seen, compile_condition, tightening
from policies.plan import Assessment
from policies.schema_rules import DeferWhen
from policies.scores import UNAVAILABLE, Scores
from tests.golden.files.make import MODEL, SUPPORT

SEEN = scores.score([-0.1, -0.2, -0.3, -4.0], [[-0.1, -3.1], [-0.2, -2.2], [-0.3, -1.3], [-4.0, -0.1]])


def rule(files: dict[str, bytes] | None = None, **written: Any) -> Condition:
    return compile_condition(msgspec.convert(written, DeferWhen), files or {})


def deferred(condition: Condition, found: Scores = SEEN, **more: Any) -> bool | None:
    return condition.judge(Seen(found, **more)).deferred


@pytest.mark.key("routes[].cascade.stages[].defer_when.below")
@pytest.mark.parametrize(("score", "value"), [("mean_logprob", -1.15), ("min_logprob", -4.0), ("margin", 2.475)])
def test_what_is_high_for_a_sure_answer_defers_below(score: str, value: float) -> None:
    assert rule(score=score, below=value + 0.01).judge(Seen(SEEN)) == Finding(True, score, pytest.approx(value), value + 0.01)
    assert deferred(rule(score=score, below=value - 0.01)) is False


@pytest.mark.key("routes[].cascade.stages[].defer_when.above")
@pytest.mark.parametrize("score", ["perplexity", "entropy"])
def test_what_is_low_for_a_sure_answer_defers_above(score: str) -> None:
    value = getattr(SEEN, score)
    assert rule(score=score, above=value - 0.01).judge(Seen(SEEN)) == Finding(True, score, value, value - 0.01)
    assert deferred(rule(score=score, above=value)) is False, "at the threshold it is accepted"


def test_energy_comes_from_logits_alone() -> None:
    energetic = rule(score="energy", above=-12.0)
    sure = scores.score([13.0], [[13.0, 2.0]], logits=True)
    assert deferred(energetic, sure) is False
    assert deferred(energetic, scores.score([5.0], [[5.0, 2.0]], logits=True)) is True
    assert deferred(energetic, SEEN) is None


@pytest.mark.key("routes[].cascade.stages[].defer_when.q")
def test_a_quantile_is_one_of_the_tokens() -> None:
    assert rule(score="quantile_logprob", q=0.5, below=-0.25).judge(Seen(SEEN)) == Finding(True, "quantile_logprob(0.5)", -0.3, -0.25)
    assert deferred(rule(score="quantile_logprob", q=1.0, below=-0.25)) is False


@pytest.mark.parametrize("found", [UNAVAILABLE, replace(SEEN, status="truncated"), Scores("ok", 3)])
def test_without_a_score_a_rule_cannot_tell(found: Scores) -> None:
    assert deferred(rule(score="mean_logprob", below=-0.1), found) is None


def test_an_impossible_token_is_as_unsure_as_can_be() -> None:
    found = scores.score([-0.1, -9999.0])
    assert deferred(rule(score="mean_logprob", below=-1e300), found) is True
    assert deferred(rule(score="perplexity", above=1e300), found) is True
    assert deferred(rule(score="mean_logprob", below=-0.1), scores.score([-0.1, math.nan])) is None


YES: dict[str, Any] = {"score": "mean_logprob", "below": 0}
NO: dict[str, Any] = {"score": "min_logprob", "below": -99}
DARK: dict[str, Any] = {"score": "energy", "above": 0}


@pytest.mark.key("routes[].cascade.stages[].defer_when.any")
@pytest.mark.parametrize(
    ("parts", "said", "by"),
    [
        ([NO, YES], True, "mean_logprob"),
        ([DARK, YES], True, "mean_logprob"),
        ([NO, NO], False, "min_logprob"),
        ([NO, DARK], None, "energy"),
        ([{"all": [YES, NO]}, NO], False, "min_logprob"),
    ],
)
def test_any_defers_as_soon_as_one_says_so(parts: list[Any], said: bool | None, by: str) -> None:
    found = rule(any=parts).judge(Seen(SEEN))
    assert (found.deferred, found.by) == (said, by)


@pytest.mark.key("routes[].cascade.stages[].defer_when.all")
@pytest.mark.parametrize(
    ("parts", "said", "by"),
    [
        ([YES, YES], True, "mean_logprob"),
        ([YES, NO], False, "min_logprob"),
        ([DARK, NO], False, "min_logprob"),
        ([YES, DARK], None, "energy"),
        ([{"any": [YES, DARK]}, YES], True, "mean_logprob"),
    ],
)
def test_all_defers_only_when_everyone_says_so(parts: list[Any], said: bool | None, by: str) -> None:
    found = rule(all=parts).judge(Seen(SEEN))
    assert (found.deferred, found.by) == (said, by)


def learned(**change: Any) -> Condition:
    return rule({"c": write(replace(SUPPORT, **change))}, calibration="c")


def test_a_learned_score_is_of_the_answer_the_segment_and_the_guard() -> None:
    assert learned().judge(Seen(scores.score([-0.5] * 24))).value == pytest.approx(1 / (1 + math.exp(-3)))
    segmented = learned(model=replace(MODEL, features=("mean_logprob", "segment")))
    assert deferred(segmented) is None
    assert deferred(segmented, segment="acme") is False
    guarded = learned(model=replace(MODEL, features=("mean_logprob", "ood_score", "ood_energy")))
    assert deferred(guarded, assessment=Assessment("ok", 1.0, -3.0, True)) is False
    assert deferred(guarded, assessment=Assessment("unavailable")) is None
    assert deferred(guarded, assessment=Assessment("ok", 1.0, None, True)) is None


def test_of_a_truncated_prefix_only_what_was_calibrated_at_that_length_is_judged() -> None:
    cut = replace(scores.score([-0.5] * 7), status="truncated")
    assert deferred(learned(), cut) is None
    assert deferred(learned(), replace(scores.score([-0.5] * 24), status="truncated")) is False
    assert deferred(learned(), scores.score([-0.5] * 7)) is False, "a finished shorter answer is whole"


def test_a_disabled_calibration_always_defers() -> None:
    for condition in (learned(enabled=False), learned(enabled=False, threshold=None)):
        assert condition.always()
        assert condition.judge(Seen(UNAVAILABLE)) == Finding(True, "calibration_disabled")
    assert not learned().always()
    off: dict[str, Any] = {"calibration": "off"}
    files = {"off": write(replace(SUPPORT, enabled=False))}
    assert rule(files, any=[NO, off]).always()
    assert not rule(files, all=[NO, off]).always()


def test_each_step_of_tightening_accepts_at_most_half() -> None:
    assert tightening(SUPPORT) == (0.6, 0.8, 0.9, math.inf)
    assert tightening(replace(SUPPORT, curve=())) == (0.6, math.inf)


def test_every_feature_of_an_answer_is_known_to_the_checks() -> None:
    assert set(scores.features(scores.score([5.0], [[5.0, 2.0]], logits=True))) | {"first_margin"} <= set(FEATURES)


def test_a_rule_that_says_nothing_cannot_be_compiled() -> None:
    for written in ({}, {"score": "mean_logprob"}):
        with pytest.raises(ValueError, match="needs a score"):
            compile_condition(msgspec.convert(written, DeferWhen), {})
