"""A guard and a cascade, driven: what is asked of the backend, what the rule sees, what the client gets, what is counted."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.exchange.memory import RouteMemory
from policies.cascade import Cascade, CompiledStage
from policies.deferral import OneScore
from policies.detector import CompiledDetector
from policies.failover import Failover
from policies.guard import Guard
from policies.ood.text import guard_text, request_turns
from policies.plan import HOLD_ALL, Call, CallError, Evidence, Features, Hold, Plan
from policies.schema import Route
from policies.schema_rules import Detector
from policies.schema_rules import Guard as GuardOf
from tests.gateway.exchange.rig import CONNECT, DONE, JSON, SSE, Rig, event
from tests.gateway.exchange.scoring import Process
from tests.policies.golden import NAMED

HOLD = Hold(tokens=3, for_ms=400)
FEATURES = Features("x-1", "chat", "chat")
ARTIFACT = (NAMED / "detectors" / "support.npz").read_bytes()
DETECTOR = CompiledDetector(Detector("d", "d.npz"), ARTIFACT)
LIKE, UNLIKE = "please cancel my parcel today", "the mitochondria of a volcano and a sonnet"


def cascade(hold: Hold = HOLD, *, serve_held: bool = False, serve_unscored: bool = True) -> Cascade:
    condition = OneScore("mean_logprob", -0.5)
    stage = CompiledStage("small", Call("small", hold, Evidence()), condition, serve_unscored)
    return Cascade("main", (stage,), Failover(("big",)), serve_held=serve_held)


def token(text: str, logprob: float, **more: Any) -> bytes:
    """An event with the evidence of one token."""
    value = json.loads(event(text)[6:])
    value["choices"][0]["logprobs"] = {"content": [{"token": text, "logprob": logprob, "bytes": None, "top_logprobs": []}]}
    value["choices"][0].update(more)
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def bare(text: str, **more: Any) -> bytes:
    """The same as it would have come without having been asked for."""
    value = json.loads(event(text)[6:])
    value["choices"][0].update(more)
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def guarded(rig_text: str, when: str = "to_last", scoring: Process | None = None) -> Rig:
    memory = RouteMemory(Route("main", (), guard=GuardOf("d", when_ood="flag")), {"d": DETECTOR}, None)
    plan = Guard("d", cascade(), when).decide(FEATURES)  # type: ignore[arg-type]
    return Rig(plan, memory=memory, scoring=scoring, messages=[{"role": "user", "content": rig_text}])


def test_evidence_is_asked_for_and_taken_out_again() -> None:
    rig = Rig(cascade().decide(FEATURES))
    small = rig.call()
    assert json.loads(small.request_body)["logprobs"] is True
    small.head(200, SSE)
    small.body(token("a", -0.1) + token("b", -0.2))
    assert not rig.reply.started
    small.body(token("c", -0.3))
    small.body(token("d", -9.0))
    small.body(event("", "stop") + DONE)
    small.end()
    assert rig.reply.body == bare("a") + bare("b") + bare("c") + bare("d") + event("", "stop") + DONE
    (call,) = rig.record.calls
    assert call.scores is not None
    assert (call.scores.status, call.scores.tokens, call.scores.mean_logprob) == ("ok", 3, pytest.approx(-0.2))
    assert rig.counted("headgate_score_status_total", "main", "small", "ok") == 1


def test_lost_evidence_is_counted_and_a_stage_that_is_not_judged_is_not() -> None:
    """What the alert HeadgateEvidenceLost goes by."""
    unjudged = Cascade("main", (CompiledStage("small", Call("small"), None, True),), Failover(("big",)))
    counted = []
    for rule in (cascade(), unjudged):
        rig = Rig(rule.decide(FEATURES))
        rig.call().reply(200, SSE, bare("a"), event("", "stop"), DONE)
        assert rig.record.code == 200
        counted.append(rig.counted("headgate_score_status_total", "main", "small", "unavailable"))
    assert counted == [1, 0]


def test_the_next_stage_is_asked_without_evidence_and_the_first_is_cancelled_before() -> None:
    rig = Rig(cascade().decide(FEATURES))
    small = rig.call()
    small.head(200, SSE)
    small.body(token("a", -3.0) * 3)
    assert small.cancelled
    assert "logprobs" not in json.loads(rig.call("big").request_body)
    rig.call("big").reply(200, SSE, event("yes"), event("", "stop"), DONE)
    assert rig.reply.body == event("yes") + event("", "stop") + DONE
    assert (rig.record.reason, rig.record.backend) == ("low_confidence", "big")
    assert rig.record.findings is not None
    assert [each.by for each in rig.record.findings.judgements] == ["mean_logprob"]
    assert rig.counted("headgate_deferrals_total", "main", "small", "mean_logprob") == 1


def test_the_clock_of_the_hold_runs_from_the_first_counted_token() -> None:
    rig = Rig(cascade(serve_unscored=False).decide(FEATURES))
    small = rig.call()
    small.head(200, SSE)
    small.body(bare("", delta={"reasoning_content": "hm"}))
    rig.pass_time(5)
    assert rig.upstreams["big"].calls == [], "reasoning is not counted"
    small.body(token("a", -0.1))
    rig.pass_time(0.399)
    assert rig.upstreams["big"].calls == []
    rig.pass_time(0.002)
    assert len(rig.upstreams["big"].calls) == 1, "truncated, and when_unscored says defer"
    rig.reply.leave()


def test_several_choices_are_held_to_the_end_and_the_worst_decides() -> None:
    rig = Rig(cascade().decide(FEATURES), n=2)
    small = rig.call()
    small.head(200, SSE)
    small.body(token("a", -0.1) * 4 + token("b", -4.0, index=1) * 4)
    assert not rig.reply.started
    assert rig.upstreams["big"].calls == []
    small.body(event("", "stop") + bare("", index=1, finish_reason="stop") + DONE)
    small.end()
    assert len(rig.upstreams["big"].calls) == 1
    rig.reply.leave()


@pytest.mark.parametrize(("logprobs", "backend"), [((-0.1, -0.1, -0.1, -9.0), "small"), ((-3.0, -3.0, -3.0, 0.0), "big")])
def test_a_whole_answer_is_judged_by_the_same_first_tokens(logprobs: tuple[float, ...], backend: str) -> None:
    rig = Rig(cascade().decide(FEATURES), stream=False)
    entries = [{"token": "a", "logprob": each, "bytes": None, "top_logprobs": []} for each in logprobs]
    answer = {"model": "m", "choices": [{"index": 0, "message": {"content": "aaaa"}, "finish_reason": "stop"}]}
    scored = {**answer, "choices": [{**answer["choices"][0], "logprobs": {"content": entries}}]}  # type: ignore[dict-item]
    rig.call().reply(200, JSON, msgspec.json.encode(scored))
    if backend == "big":
        rig.call("big").reply(200, JSON, msgspec.json.encode(answer))
    assert rig.reply.body == msgspec.json.encode(answer)
    assert (rig.record.backend, rig.record.calls[0].scores is not None) == (backend, True)


def test_evidence_that_is_not_json_does_not_cost_a_whole_answer() -> None:
    rig = Rig(cascade().decide(FEATURES), stream=False)
    entry = {"token": "a", "logprob": -7.25, "bytes": None, "top_logprobs": []}
    answer = {"model": "m", "choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]}
    scored = {**answer, "choices": [{**answer["choices"][0], "logprobs": {"content": [entry]}}]}  # type: ignore[dict-item]
    rig.call().reply(200, JSON, msgspec.json.encode(scored).replace(b"-7.25", b"NaN"))
    assert (rig.reply.status, rig.reply.body) == (200, msgspec.json.encode(answer))
    scores = rig.record.calls[0].scores
    assert scores is not None
    assert scores.status == "unavailable"


def test_what_was_held_is_served_where_the_last_stage_fails() -> None:
    rig = Rig(cascade(serve_held=True).decide(FEATURES))
    small = rig.call()
    small.head(200, SSE)
    small.body(token("a", -3.0) * 3)
    assert not small.cancelled
    rig.call("big").fail(CONNECT)
    assert rig.reply.body == bare("a") * 3
    assert rig.reply.headers["x-headgate-low-confidence"] == "true"
    small.body(event("", "stop") + DONE)
    small.end()
    assert (rig.record.backend, rig.record.reason, rig.record.code) == ("small", "failover", 200)


def test_a_guard_sends_what_is_strange_to_the_last_stage() -> None:
    rig = guarded(UNLIKE)
    assert rig.upstreams["small"].calls == []
    rig.call("big").reply(200, SSE, event("yes"), event("", "stop"), DONE)
    assert (rig.reply.headers["x-headgate-ood"], rig.record.reason) == ("true", "ood")
    assert rig.counted("headgate_ood_total", "main", "true") == 1
    assert rig.record.findings is not None
    assert rig.record.findings.assessment is not None
    assert rig.record.findings.assessment.status == "ok"


def test_a_guard_that_refuses_says_so_in_an_error() -> None:
    rig = guarded(UNLIKE, "refuse")
    assert (rig.reply.status, rig.reply.error["code"]) == (422, "out_of_distribution")
    assert rig.reply.headers["x-headgate-ood"] == "true"
    assert rig.record.calls == ()


@pytest.mark.parametrize("text", [LIKE, UNLIKE, "Überweisung 12,50 € → ?", "日本語の文章", "x" * 9_000])
def test_a_request_scores_the_same_offline_and_live_to_the_last_bit(text: str) -> None:
    process = Process()
    rig = guarded(text, "flag", process)
    offline = DETECTOR.assess(guard_text(request_turns(msgspec.json.decode(rig.raw)), DETECTOR.text))
    assert offline is not None
    assert len(process.questions) == (len(text) > 1_000), "what is dear is left to the process"
    for asked in process.questions:
        found = CompiledDetector(Detector("d", "d.npz"), ARTIFACT).assess(asked.text, asked.segment)
        assert found is not None
        asked.take(found)
    rig.call().reply(200, SSE, token("a", -0.1), event("", "stop"), DONE)
    assert rig.record.findings is not None
    live = rig.record.findings.assessment
    assert live is not None
    assert (live.status, live.score, live.energy) == (offline.status, offline.score, offline.energy)


def test_scores_are_told_only_to_those_who_may_ask() -> None:
    for debug in (False, True):
        rig = Rig(cascade().decide(FEATURES), debug=debug)
        rig.call().head(200, SSE)
        rig.call().body(token("a", -0.25) * 3)
        assert rig.reply.headers.get("x-headgate-confidence") == ("-0.25" if debug else None)
        assert rig.reply.headers.get("x-headgate-score-status") == ("ok" if debug else None)
        rig.reply.leave()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["small", "big"]), st.sampled_from(["head", "sure", "unsure", "odd", "stop", "end", "fail", "error"])),
        st.tuples(st.just("client"), st.sampled_from(["wait", "leave"])),
    ),
    max_size=25,
)


def events_of(name: str) -> dict[str, tuple[bytes, bytes]]:
    """What each step sends, and what of it the client may get."""
    return {
        "sure": (token(name, -0.1), bare(name)),
        "unsure": (token(name, -4.0), bare(name)),
        "odd": (bare(name), bare(name)),
        "stop": (event("", "stop"), event("", "stop")),
    }


@settings(max_examples=400, deadline=None)
@given(STEPS, st.sampled_from([HOLD, Hold(tokens=1), HOLD_ALL]), st.booleans(), st.booleans())
def test_whatever_happens_there_is_one_answer_of_one_model(
    steps: list[tuple[str, str]], hold: Hold, serve_held: bool, serve_unscored: bool
) -> None:
    """What the client gets of a model is what that model said from its first byte on, without a gap and with nothing of the other's."""
    plan: Plan = cascade(hold, serve_held=serve_held, serve_unscored=serve_unscored).decide(FEATURES)
    rig = Rig(plan)
    given_out: dict[str, bytes] = {"small": b"", "big": b""}
    headed: set[str] = set()
    for who, what in steps:
        if who == "client":
            if what == "wait":
                rig.pass_time(0.3)
            elif not rig.reply.over:
                rig.reply.leave()
            continue
        if not rig.upstreams[who].calls or rig.call(who).over:
            continue
        call = rig.call(who)
        if what == "fail":
            call.fail(CallError("truncated" if who in headed else "connect", "gone"))
        elif who not in headed:
            headed.add(who)
            call.head(200, SSE)
        elif what == "end":
            call.end()
        elif what == "error":
            call.body(b'data: {"error":{"message":"boom"}}\n\n')
        elif what in events_of(who) and DONE not in given_out[who]:
            sent, passed = events_of(who)[what]
            given_out[who] += passed
            call.body(sent if who == "small" else passed)  # nobody has asked the last stage for evidence
            if what == "stop":
                given_out[who] += DONE
                call.body(DONE)
        answer = rig.reply.body
        if answer and rig.reply.status == 200 and b'"error"' not in answer:
            assert any(said.startswith(answer) or answer == said + DONE for said in given_out.values())
            assert rig.exchange.committed_at is not None
    if not rig.reply.over:
        rig.reply.leave()
    record = rig.record
    assert not (b'"small"' in rig.reply.body and b'"big"' in rig.reply.body)
    assert b'logprob"' not in rig.reply.body
    assert len(record.calls) <= 2
    if record.code == 200 and not rig.reply.left:
        assert rig.reply.body == given_out[record.backend]
    for first, second in itertools.pairwise(rig.calls):
        assert serve_held or first.over or not second
