"""The guard and its detector."""

import subprocess
import sys
from hashlib import sha256
from typing import Any

import pytest
from msgspec.structs import replace

from policies.detector import DETECTORS_MAX, SLOW_MAX, UNANSWERED, CompiledDetector, DetectorError
from policies.errors import PolicyError
from policies.failover import Single
from policies.guard import Guard
from policies.plan import Assess, Assessment, Features, Outcome, Refuse, Rule
from policies.schema_rules import Detector, Threshold
from policies.snapshot import Snapshot
from tests.policies.building import backend, policy, snapshot
from tests.policies.golden import FILES
from tests.policies.ood.tiny import slow_artifact
from tests.policies.playing import FEATURES, INSIDE, NO_TEXT, OUTSIDE, REFUSED, SURE, UNSURE, Played, play

ARTIFACT = "detectors/support.npz"
CASCADE: dict[str, Any] = {
    "stages": [{"backend": "small", "hold": "all", "defer_when": {"score": "mean_logprob", "below": -0.35}}],
    "last": {"failover": ["big", "huge"]},
}


def guarded(route: dict[str, Any] | None = None, *, detector: dict[str, Any] | None = None, **guard: Any) -> Snapshot:
    """`guard`: its keys, `when_ood` "flag" unless said; the route has the cascade unless it has something else."""
    backends = [backend("small", evidence="logprobs"), backend("big"), backend("huge")]
    one = {"name": "chat", "matches": [{"models": ["chat"]}], "guard": {"detector": "d", "when_ood": "flag"} | guard}
    detectors = [{"name": "d", "artifact": ARTIFACT} | (detector or {})]
    return snapshot(policy(backends=backends, routes=[one | (route or {"cascade": CASCADE})], detectors=detectors, segments=SEGMENTS))


SEGMENTS = [{"name": "tenant", "from": "key:tenant", "values": ["acme"]}, {"name": "length", "from": "prompt_chars", "edges": [9]}]


def rule(route: dict[str, Any] | None = None, **guard: Any) -> Rule:
    return guarded(route, **guard).decide(FEATURES).route.rule  # type: ignore[union-attr]


def told(found: Played) -> tuple[list[str], str | None, str | None]:
    return found.backends, found.answer.ood, found.answer.reason


@pytest.mark.key("routes[].guard.detector")
def test_a_request_like_the_training_data_is_served_as_ever() -> None:
    found = play(rule(when_ood="to_last"), {"small": SURE}, assessment=INSIDE)
    assert found.verbs[0] == Assess("d", None)
    assert told(found) == (["small"], "false", "primary")
    assert found.answer.assessment == INSIDE
    assert told(play(rule(when_ood="to_last"), {"small": UNSURE})) == (["small", "big"], "false", "low_confidence")


@pytest.mark.key("routes[].guard.when_ood")
def test_one_that_is_not_goes_to_the_last_stage_is_flagged_or_refused() -> None:
    assert told(play(rule(when_ood="to_last"), assessment=OUTSIDE)) == (["big"], "true", "ood")
    assert told(play(rule(when_ood="to_last"), {"big": REFUSED}, assessment=OUTSIDE)) == (["big", "huge"], "true", "failover")
    assert told(play(rule(when_ood="flag"), {"small": SURE}, assessment=OUTSIDE)) == (["small"], "true", "primary")
    found = play(rule(when_ood="refuse"), assessment=OUTSIDE)
    assert isinstance(found.verdict, Refuse)
    assert found.backends == []
    verdict = found.verdict
    assert (verdict.status, verdict.kind, verdict.code) == (422, "invalid_request_error", "out_of_distribution")
    assert (verdict.ood, verdict.assessment) == ("true", OUTSIDE)


@pytest.mark.key("routes[].guard.when_unscored")
def test_one_without_a_text_too() -> None:
    assert told(play(rule(when_ood="refuse"), {"small": SURE}, assessment=NO_TEXT)) == (["small"], "unscored", "primary")
    assert told(play(rule(when_unscored="to_last"), assessment=NO_TEXT)) == (["big"], "unscored", "ood")
    found = play(rule(when_unscored="refuse"), assessment=NO_TEXT)
    assert isinstance(found.verdict, Refuse)
    assert (found.verdict.code, found.verdict.ood) == ("not_scored", "unscored")


def test_a_guard_wraps_any_rule() -> None:
    assert told(play(rule({"backend": "small"}), assessment=OUTSIDE)) == (["small"], "true", "primary")
    failing = play(rule({"failover": ["small", "big"]}), {"small": REFUSED}, assessment=OUTSIDE)
    assert told(failing) == (["small", "big"], "true", "failover")
    assert rule({"failover": ["small", "big"]}).backends() == ("small", "big")
    with pytest.raises(ValueError, match="needs a cascade"):
        Guard("d", Single("small"), "to_last")


def test_the_one_segment_of_the_route_is_told_to_the_detector() -> None:
    known = Features("x-1", "chat", "chat", labels={"tenant": "acme"})
    one = guarded({"backend": "small", "segments": ["tenant"]}).decide(known).plan  # type: ignore[union-attr]
    assert next(one) == Assess("d", "acme")
    both = guarded({"backend": "small", "segments": ["tenant", "length"]}).decide(known).plan  # type: ignore[union-attr]
    assert next(both) == Assess("d", None), "which of them it would be nobody said"


def test_a_calibration_may_go_by_what_the_guard_found() -> None:
    stage = {"backend": "small", "hold": {"tokens": 24}, "defer_when": {"calibration": "calibrations/by-guard.json"}}
    learned = rule({"cascade": {"stages": [stage], "last": "big"}})
    found = play(learned, {"small": SURE}, assessment=OUTSIDE)
    assert (found.answer.judgements[0].by, found.backends) == ("calibrated", ["small"])
    assert play(learned, {"small": SURE}, assessment=NO_TEXT).answer.judgements[0].by == "when_unscored"


# The detector

GUARDED = {"name": "chat", "matches": [{"models": ["chat"]}], "backend": "small", "guard": {"detector": "d", "when_ood": "flag"}}
LIKE, UNLIKE = "please cancel my parcel today", "the mitochondria of a volcano and a sonnet"


@pytest.mark.key("detectors[].name")
@pytest.mark.key("detectors[].artifact")
def test_the_snapshot_has_the_detectors_that_some_guard_asks() -> None:
    found = guarded()
    assert list(found.detectors) == ["d"]
    like, unlike = (found.detectors["d"].assess(text) for text in (LIKE, UNLIKE))
    assert like is not None
    assert unlike is not None
    assert (like.status, like.in_distribution, unlike.in_distribution) == ("ok", True, False)
    assert like.score is not None
    assert unlike.score is not None
    assert like.score < unlike.score
    unused = policy(detectors=[{"name": "d", "artifact": ARTIFACT}])
    assert snapshot(unused).detectors == {}


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_no_text_is_unavailable(text: str | None) -> None:
    assert guarded().detectors["d"].assess(text) == Assessment("unavailable")


@pytest.mark.key("detectors[].text")
def test_the_guard_text_is_the_one_that_it_was_fitted_on() -> None:
    assert guarded().detectors["d"].text == "last_user"
    assert guarded(detector={"text": "last_user"}).detectors["d"].text == "last_user"


@pytest.mark.key("detectors[].threshold.keep_percent")
@pytest.mark.key("detectors[].threshold.score")
def test_the_threshold_is_a_share_that_is_kept_or_a_score() -> None:
    def threshold(**written: Any) -> float:
        return guarded(detector={"threshold": written} if written else {}).detectors["d"].threshold()

    assert threshold() == threshold(keep_percent=95)
    assert threshold(keep_percent=50) < threshold(keep_percent=95)
    assert threshold(score=3.1) == 3.1
    everything = guarded(detector={"threshold": {"score": -1e9}}).detectors["d"]
    assert inside(everything) is False


def test_a_segment_with_enough_texts_has_a_threshold_of_its_own() -> None:
    from policies.ood.artifact import dumps, loads

    fitted = loads(FILES[ARTIFACT])
    low = replace(fitted.calibration, segments={"acme": fitted.calibration.scores - 100})
    found = CompiledDetector(Detector("d", ARTIFACT), dumps(replace(fitted, calibration=low)))
    assert found.threshold("acme") == pytest.approx(found.threshold() - 100)
    assert found.threshold("globex") == found.threshold()
    assert (inside(found), inside(found, "acme")) == (True, False)


def test_what_is_no_detector_or_has_too_few_texts_is_refused() -> None:
    with pytest.raises(DetectorError, match="truncated"):
        CompiledDetector(Detector("d", ARTIFACT), FILES[ARTIFACT][:999])
    with pytest.raises(DetectorError, match="at least 99"):
        CompiledDetector(Detector("d", ARTIFACT, threshold=Threshold(keep_percent=99.0)), FILES[ARTIFACT])


def inside(detector: CompiledDetector, segment: str | None = None) -> bool | None:
    found = detector.assess(LIKE, segment)
    assert found is not None
    return found.in_distribution


def test_one_with_an_encoder_is_only_judged_here() -> None:
    found = CompiledDetector(Detector("d", ARTIFACT), slow_artifact())
    assert found.digest == sha256(slow_artifact()).hexdigest()
    assert found.judged(found.threshold(), 0.5) == Assessment("ok", found.threshold(), 0.5, True)
    assert found.judged(found.threshold() + 0.01, 0.5).in_distribution is False
    assert (found.assess(LIKE), found.assess(LIKE, inline=True), found.assess(None)) == (None, None, Assessment("unavailable"))
    slow = policy(backends=[backend("small")], routes=[GUARDED], detectors=[{"name": "d", "artifact": "slow.npz"}])
    assert snapshot(slow, {"slow.npz": slow_artifact()}).digests == {"d": found.digest}


def test_a_text_that_would_hold_up_a_loop_is_not_scored_inline() -> None:
    quick = guarded()
    found = quick.detectors["d"]
    assert quick.digests == {"d": found.digest} == {"d": sha256(FILES[ARTIFACT]).hexdigest()}
    dear = " ".join(str(number) for number in range(100_000, 100_100))
    assert found.assess(dear, inline=True) is None
    assert found.assess(LIKE, inline=True) == found.assess(LIKE)
    assert found.assess(dear) == found.assess(dear, inline=True), "all of its words have been met now"
    assert (found.assess(None, inline=True), found.assess(" ", inline=True)) == (Assessment("unavailable"),) * 2


def test_a_policy_has_so_many_artifacts_at_most() -> None:
    files = {f"{number}.npz": FILES[ARTIFACT] for number in range(DETECTORS_MAX + 1)}
    detectors = [{"name": f"d{number}", "artifact": name} for number, name in enumerate(files)]
    routes = [GUARDED | {"guard": {"detector": "d0", "when_ood": "flag"}}]
    with pytest.raises(PolicyError) as caught:
        snapshot(policy(backends=[backend("small")], routes=routes, detectors=detectors), files)
    (problem,) = caught.value.problems
    assert (problem.path, problem.message) == ("detectors", f"{DETECTORS_MAX + 1} artifacts, more than {DETECTORS_MAX}")
    detectors[-1]["artifact"] = "0.npz"
    snapshot(policy(backends=[backend("small")], routes=routes, detectors=detectors), files)


def test_a_policy_has_few_with_an_encoder() -> None:
    from policies.ood.artifact import dumps, loads

    files = {}
    for number in range(SLOW_MAX + 1):
        fitted = loads(slow_artifact())
        files[f"{number}.npz"] = dumps(replace(fitted, facts=replace(fitted.facts, outliers=number)))
    detectors = [{"name": f"d{number}", "artifact": name} for number, name in enumerate(files)]
    detectors.append({"name": "again", "artifact": "0.npz"})
    with pytest.raises(PolicyError) as caught:
        snapshot(
            policy(backends=[backend("small")], routes=[GUARDED | {"guard": {"detector": "d0", "when_ood": "flag"}}], detectors=detectors),
            files,
        )
    (problem,) = caught.value.problems
    assert (problem.path, problem.message) == (f"detectors[{SLOW_MAX}].artifact", f"more than {SLOW_MAX} detectors need a sentence encoder")


def test_what_was_not_answered_in_time_is_refused_as_such() -> None:
    found = play(rule(when_unscored="refuse"), assessment=UNANSWERED)
    assert isinstance(found.verdict, Refuse)
    assert (found.verdict.status, found.verdict.kind, found.verdict.code) == (503, "server_error", "not_scored")
    assert told(play(rule(when_unscored="to_last"), assessment=UNANSWERED)) == (["big"], "unscored", "ood")


def test_numpy_is_loaded_with_the_first_detector_and_not_before() -> None:
    script = (
        "import sys, json\n"
        "from tests.policies.building import policy, snapshot\n"
        "snapshot(policy())\n"
        "print('numpy' in sys.modules)\n"
        f"snapshot(policy(detectors=[{{'name': 'd', 'artifact': {ARTIFACT!r}}}]))\n"
        "print('numpy' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_an_answer_is_of_the_outcome_that_came() -> None:
    found = play(rule(when_ood="to_last"), assessment=OUTSIDE)
    assert found.answer.outcome == Outcome(0, "big")
