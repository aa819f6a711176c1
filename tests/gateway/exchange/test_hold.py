"""What of a reply must have come before the policy is resumed, and that nothing of it reaches the client before `Answer`."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.plan import HOLD_ALL, HOLD_NONE, Answer, Call, Hold, Outcome, Plan, ask, call
from tests.gateway.exchange.rig import DONE, JSON, SSE, USAGE, WHOLE, Rig, event, judged, single

ROLE = b'data: {"id":"c-1","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'


def noted(seen: list[Outcome]) -> Callable[[Outcome], bool]:
    def good(outcome: Outcome) -> bool:
        seen.append(outcome)
        return True

    return good


def test_hold_none_resumes_at_the_first_content_not_at_the_status_line_or_the_role() -> None:
    rig = Rig(single())
    small = rig.call()
    small.head(200, SSE)
    small.body(ROLE)
    assert not rig.reply.started
    assert not small.content
    small.body(event("one"))
    assert small.content
    assert rig.reply.status == 200
    assert rig.reply.body == ROLE + event("one")
    small.body(event("two"))
    assert rig.reply.body == ROLE + event("one") + event("two")


def test_so_many_tokens_are_held() -> None:
    rig = Rig(single(Hold(tokens=3)))
    small = rig.call()
    small.head(200, SSE)
    small.body(event("one") + event("two"))
    assert not rig.reply.started
    small.body(event("three"))
    assert rig.reply.body == event("one") + event("two") + event("three")


def test_or_so_long_from_the_first_counted_token() -> None:
    rig = Rig(single(Hold(tokens=24, for_ms=400)))
    small = rig.call()
    rig.pass_time(100)  # which is `first_token`'s business
    small.head(200, SSE)
    small.body(ROLE)
    rig.pass_time(10)
    assert not rig.reply.started
    small.body(event("one"))
    rig.pass_time(0.3)
    small.body(event("two"))
    rig.pass_time(0.099)
    assert not rig.reply.started
    rig.pass_time(0.002)
    assert rig.reply.body == ROLE + event("one") + event("two")


def test_a_shorter_answer_is_complete() -> None:
    seen: list[Outcome] = []
    rig = Rig(judged(Hold(tokens=24, for_ms=400), noted(seen)))
    small = rig.call()
    small.reply(200, SSE, event("one"), event("", "stop"), DONE)
    assert seen == [Outcome(0, "small", None, complete=True)]
    assert rig.reply.over
    assert rig.reply.body == event("one") + event("", "stop") + DONE
    rig.pass_time(1)  # the hold's clock runs out over an exchange that has ended
    assert rig.record.code == 200


def test_hold_all_waits_for_the_end() -> None:
    rig = Rig(single(HOLD_ALL))
    small = rig.call()
    small.head(200, SSE)
    small.body(event("one") * 100)
    rig.pass_time(60)
    assert not rig.reply.started
    small.body(event("", "stop") + DONE)
    assert not rig.reply.started
    small.end()
    assert rig.reply.body == event("one") * 100 + event("", "stop") + DONE


@pytest.mark.parametrize("hold", [HOLD_NONE, Hold(tokens=2), HOLD_ALL])
def test_a_whole_reply_is_judged_whole_under_every_hold(hold: Hold) -> None:
    seen: list[Outcome] = []
    rig = Rig(judged(hold, noted(seen)), stream=False)
    small = rig.call()
    small.head(200, JSON)
    small.body(WHOLE[:20])
    assert not seen
    small.body(WHOLE[20:])
    assert not rig.reply.started
    small.end()
    assert seen == [Outcome(0, "small", None, complete=True)]
    assert (rig.reply.status, rig.reply.body) == (200, WHOLE)


def test_a_deferred_answer_is_never_seen_and_its_call_is_cancelled_as_the_next_is_sent() -> None:
    rig = Rig(judged(Hold(tokens=2), lambda outcome: False))
    small = rig.call()
    small.head(200, SSE)
    small.body(event("bad") * 2)
    assert small.cancelled
    big = rig.call("big")
    assert not rig.reply.started
    big.head(200, SSE)
    big.body(event("good"))
    assert rig.reply.body == event("good")
    assert rig.reply.headers["x-headgate-backend"] == "big"
    assert rig.reply.headers["x-headgate-reason"] == "low_confidence"
    big.body(event("", "stop") + DONE)
    big.end()
    assert [call.result for call in rig.record.calls] == ["cancelled", "ok"]


def test_what_was_held_can_still_be_served_after_a_second_call_failed() -> None:
    def plan() -> Plan:
        first = yield from call("small", Hold(tokens=2))
        second = yield from ask(Call("big", Hold(tokens=2), keep=(0,)))
        return Answer(first if second.error else second, "low_confidence")

    rig = Rig(plan())
    small = rig.call()
    small.head(200, SSE)
    small.body(event("one") + event("two"))
    small.body(event("three"))
    rig.call("big").reply(500, JSON, b"{}")
    assert rig.reply.body == event("one") + event("two") + event("three")
    small.body(event("", "stop") + DONE)
    small.end()
    assert rig.reply.body.endswith(DONE)
    assert (rig.record.code, rig.record.backend) == (200, "small")


CONTENT = st.text(st.characters(codec="utf-8"), max_size=12)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """A backend's stream, and what the client must get of it: without the usage chunk, and with it."""
    end = draw(st.sampled_from([b"\n", b"\r\n"]))
    blocks: list[bytes] = [event(text) for text in draw(st.lists(CONTENT, min_size=1, max_size=12))]
    for at in draw(st.lists(st.integers(0, len(blocks)), max_size=3)):
        blocks.insert(at, draw(st.sampled_from([b": ping\n\n", b"id: 7\n\n", b"retry: 10\n\n"])))
    blocks.append(event("", "stop"))
    usage = draw(st.booleans())
    blocks = [block.replace(b"\n", end) for block in blocks]
    done = [DONE.replace(b"\n", end)] if draw(st.booleans()) else []
    full = b"".join(blocks + ([USAGE.replace(b"\n", end)] if usage else []) + done)
    clean = b"".join(blocks + done)
    missing = b"" if done else DONE
    return full, clean + missing, full + missing


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in at}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


@settings(max_examples=300, deadline=None)
@given(
    streams(),
    st.lists(st.integers(0, 10_000), max_size=30),
    st.sampled_from([HOLD_NONE, Hold(tokens=1), Hold(tokens=3), Hold(tokens=4, for_ms=50), Hold(tokens=1000), HOLD_ALL]),
    st.booleans(),
)
def test_the_client_gets_the_backends_bytes_and_nothing_else(
    stream: tuple[bytes, bytes, bytes], places: list[int], hold: Hold, asked: bool
) -> None:
    """Any stream, in any pieces, under any hold: byte for byte, but for the usage that the gateway alone asked for."""
    full, without_usage, with_usage = stream
    rig = Rig(single(hold), stream_options={"include_usage": asked})
    small = rig.call()
    small.head(200, SSE)
    for number, piece in enumerate(cut(full, places)):
        small.body(piece)
        if number == 2:
            rig.pass_time(0.06)
    small.end()
    assert rig.reply.over
    assert rig.reply.body == (with_usage if asked else without_usage)
    assert rig.record.code == 200
    assert rig.record.bytes_out == len(rig.reply.body)
