"""Whatever happens, in whatever order: one answer, one record, no call left running, and never two models in one reply."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.plan import HOLD_ALL, HOLD_NONE, Call, CallError, Hold, Plan
from tests.gateway.exchange.rig import DONE, JSON, SSE, USAGE, WHOLE, Rig, event, failover, judged, single

BACKENDS = st.sampled_from(["small", "big"])
HOLDS = st.sampled_from([HOLD_NONE, Hold(tokens=2), Hold(tokens=3, for_ms=400), HOLD_ALL])
HEADS: list[tuple[int, dict[bytes, bytes]]] = [(200, SSE), (200, SSE), (200, JSON), (500, JSON), (429, JSON | {b"retry-after": b"1"})]


def chunks(name: str) -> list[bytes]:
    return [event(name), event(name), event("", "stop"), event("", "stop") + USAGE + DONE, b": hm\n\n", WHOLE, b"data: {", b"data: x\n\n"]


def breaks(hold: Hold) -> Plan:
    yield Call("small", hold)
    yield Call("big", hold)
    raise ValueError("a bug")


PLANS: st.SearchStrategy[Callable[[Hold], Plan]] = st.sampled_from(
    [single, failover, breaks, lambda hold: judged(hold, lambda outcome: False), lambda hold: judged(hold, lambda outcome: True)]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("head"), BACKENDS, st.integers(0, len(HEADS) - 1)),
        st.tuples(st.just("body"), BACKENDS, st.integers(0, 7)),
        st.tuples(st.just("body"), BACKENDS, st.integers(0, 3)),
        st.tuples(st.just("end"), BACKENDS, st.just(0)),
        st.tuples(st.just("fail"), BACKENDS, st.just(0)),
        st.tuples(st.sampled_from(["wait", "pause", "resume"]), BACKENDS, st.just(0)),
        st.tuples(st.sampled_from(["leave", "abandon"]), BACKENDS, st.just(0)),
    ),
    max_size=30,
)


def take(rig: Rig, headed: set[int], done: set[int], step: tuple[str, str, int]) -> None:
    what, name, which = step
    if what in ("pause", "resume"):
        if rig.reply.observer is not None:
            (rig.exchange.pause_writing if what == "pause" else rig.exchange.resume_writing)()
    elif what == "wait":
        rig.pass_time(0.3)
    elif what == "leave":
        if not rig.reply.over:
            rig.reply.leave()
    elif what == "abandon" and not done:  # an answer that is whole and is cut off just then gets an error after its end
        rig.exchange.abandon("the gateway is shutting down")
    elif rig.upstreams[name].calls:
        call = rig.call(name)
        if what == "fail":
            call.fail(CallError("truncated" if id(call) in headed else "connect", "h:1: gone"))
            return
        if id(call) not in headed:  # nothing comes before the head
            headed.add(id(call))
            call.head(*HEADS[which % len(HEADS)])
        elif what == "body" and id(call) not in done:  # nor anything after the end
            call.body(chunks(name)[which])
            if DONE in chunks(name)[which]:
                done.add(id(call))
        elif what == "end":
            call.end()


@settings(max_examples=400, deadline=None)
@given(PLANS, HOLDS, st.booleans(), st.sampled_from([None, 0.5]), STEPS)
def test_one_answer_and_one_record(
    plan: Callable[[Hold], Plan], hold: Hold, stream: bool, keep_alive_after: float | None, steps: list[tuple[str, str, int]]
) -> None:
    rig = Rig(plan(hold), stream=stream, keep_alive_after=keep_alive_after)
    headed: set[int] = set()
    done: set[int] = set()
    for step in steps:
        take(rig, headed, done, step)
        spoke = rig.reply.body.removeprefix(b": keep-alive\n\n" * rig.reply.body.count(b": keep-alive\n\n"))
        assert rig.exchange.committed_at is not None or not spoke or rig.reply.over, "nothing before commit"
    if not rig.reply.over:
        rig.reply.leave()
    record = rig.record
    assert record.bytes_out == len(rig.reply.body)
    assert not (b'"small"' in rig.reply.body and b'"big"' in rig.reply.body), "two models in one reply"
    assert not any(call.cancelled and call.faults for call in rig.calls)
    assert record.truncated_by_client == (record.code == 499)
    if rig.reply.left:
        assert record.code in (200, 499), "it may have had all of the answer"
        return
    answer: Any = rig.reply.body
    if not rig.reply.headers["content-type"].startswith("text/event-stream"):
        assert (rig.reply.status == 200) == (record.code == 200)
        assert ("error" in json.loads(answer)) == (record.code != 200)
    else:
        assert answer.endswith(DONE)
        assert answer.count(DONE) == 1
        assert (b'"error":' in answer) == (record.code != 200)
        assert USAGE not in answer
    assert (record.error == "") == (record.code == 200)
