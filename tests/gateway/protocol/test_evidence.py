"""Evidence read from streams and whole replies, while the client gets what it would have got without."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocol.body import decode
from gateway.protocol.chunks import ChunkStream
from gateway.protocol.evidence import PENDING_MAX, EvidenceReader, read_evidence
from gateway.protocol.stream import StreamReader, open_stream
from gateway.protocol.stripping import NOTHING
from policies.plan import Endpoint, Evidence
from policies.scores import UNAVAILABLE, Scores, Tally, score
from tests.gateway.protocol.recorded import body_of, events_of
from tests.gateway.protocol.simulated import (
    END,
    ENGINES,
    Engine,
    Token,
    columns,
    compact,
    delta,
    entry,
    stream,
    tokens,
    whole,
)

DONE = b"data: [DONE]\n\n"
KINDS: tuple[Any, ...] = ("content", "tool_arguments", "all")


def opened(endpoint: Endpoint = "chat", kind: Any = "content", top: int = 5, *, choices: int = 1, **options: Any) -> StreamReader:
    evidence = EvidenceReader(Evidence(tokens=kind, top=top), **{"keep": NOTHING, **options})
    return open_stream(endpoint, choices=choices, strip_usage=True, evidence=evidence)


def fed(events: list[bytes], **options: Any) -> StreamReader:
    reader = opened(**options)
    reader.feed(b"".join(events))
    return reader


def chunk(said: Any, logprobs: Any = None, finish: str | None = None, index: int = 0) -> bytes:
    choice = {"index": index, "delta": said, "logprobs": logprobs, "finish_reason": finish}
    return b"data: " + compact({"id": "c", "model": "m", "choices": [choice]}) + b"\n\n"


def one(logprob: Any = -0.5, *top: Any) -> dict[str, Any]:
    return {"content": [{"token": "x", "logprob": logprob, "top_logprobs": [{"logprob": each} for each in top]}]}


def text(logprobs: Any = None, finish: str | None = None) -> bytes:
    return chunk({"content": "x"}, logprobs, finish)


# The recordings


@pytest.mark.parametrize("engine", ENGINES)
def test_a_recorded_stream_is_scored_and_given_as_it_would_have_been(engine: Engine) -> None:
    events = events_of(engine, "chat_stream_usage_logprobs")
    reader = opened(top=2)
    out = reader.feed(b"".join(events))
    assert b"top_logprobs" not in out
    assert out.count(b"\n\n") == len(events) - 1  # the usage
    found = reader.scores()
    assert (found.status, found.tokens, reader.tokens) == ("ok", 2, 2) if engine == "vllm" else ("ok", 1, 1)
    assert found.margin == pytest.approx(10.93 if engine == "vllm" else 9.63, abs=0.01)
    assert found.min_logprob == pytest.approx(-0.0003, abs=1e-4)


@pytest.mark.parametrize(("engine", "count"), [("vllm", 2), ("llama-server", 1), ("ollama", 1)])
def test_a_recorded_reply_is_scored_like_its_stream(engine: Engine, count: int) -> None:
    """llama-server has an entry for the end of the sequence only where it does not stream."""
    scores, left = read_evidence("chat", body_of(engine, "chat_logprobs"), Evidence(top=2), keep=NOTHING)
    streamed = fed(events_of(engine, "chat_stream_usage_logprobs"), top=2).scores()
    assert (scores.status, scores.tokens) == ("ok", count)
    assert scores.sorted_logprobs == pytest.approx(streamed.sorted_logprobs, abs=1e-6)
    assert scores.entropy == pytest.approx(streamed.entropy, abs=1e-6)
    assert b"top_logprobs" not in left


@pytest.mark.parametrize(("engine", "count"), [("vllm", 3), ("llama-server", 3)])
def test_recorded_completions_are_scored(engine: Engine, count: int) -> None:
    scores, _ = read_evidence("completions", body_of(engine, "completions"), Evidence(top=2))
    assert (scores.status, scores.tokens) == ("ok", count)
    assert scores.mean_logprob == pytest.approx(-0.514, abs=1e-3)
    assert scores.margin == pytest.approx((0.247 + 0.371 + 0.829) / 3, abs=1e-2)


@pytest.mark.parametrize("name", ["chat_stream", "completions_stream", "responses_stream", "messages_stream"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_stream_without_evidence_is_unavailable_and_untouched(engine: Engine, name: str) -> None:
    endpoint: Any = {"completions_stream": "completions", "responses_stream": "responses", "messages_stream": "messages"}.get(name, "chat")
    events = [event for event in events_of(engine, name) if b'"choices":[]' not in event]
    reader = opened(endpoint)
    assert reader.feed(b"".join(events)) == b"".join(events)
    assert reader.scores() == UNAVAILABLE
    assert reader.tokens > 0


# Laws


def expected(engine: Engine, endpoint: Any, said: list[Token], kind: str, top: int, hold: int) -> Scores:
    """What the same tokens are worth, by hand."""
    if endpoint == "completions":
        said = [] if kind == "tool_arguments" or engine == "ollama" else said
    elif engine == "vllm":
        last = next((token.part for token in reversed(said) if token.text), "content")
        said = [*said, Token(last, END.ranked, END.rank)]
    tally = Tally()
    for token in [token for token in said if endpoint == "completions" or kind in ("all", token.part)][: hold or None]:
        if endpoint == "completions" and engine == "vllm":
            tops = list(columns([token], top)["top_logprobs"][0].values()) if top else []
        else:
            tops = [each["logprob"] for each in entry(engine, token, top).get("top_logprobs", [])]
        tally.add(token.logprob, tops)
    return tally.scores()


said_by = tokens().filter(lambda said: all(token.text for token in said))
"""Tokens that have a text: it alone shows what they are of."""


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(ENGINES),
    st.sampled_from(["chat", "completions"]),
    said_by,
    st.sampled_from(KINDS),
    st.integers(0, 4),
    st.none() | st.integers(1, 6),
    st.integers(0, 6),
    st.lists(st.integers(0, 6000), max_size=10),
    st.integers(0, 12),
    st.booleans(),
)
def test_whatever_is_asked_the_client_gets_what_it_asked_for_and_the_policy_its_scores(
    engine: Engine,
    endpoint: Any,
    said: list[Token],
    kind: Any,
    top: int,
    own: int | None,
    hold: int,
    cuts: list[int],
    commit_at: int,
    after_commit: bool,
) -> None:
    wanted: dict[str, Any] = (
        {} if own is None else {"logprobs": own} if endpoint == "completions" else {"logprobs": True, "top_logprobs": own}
    )
    body = decode(json.dumps({"model": "m", "stream": True} | wanted).encode(), endpoint)
    evidence = Evidence(tokens=kind, top=top)
    request = json.loads(b"".join(body.render("m", usage=False, evidence=evidence)))
    asked = request["logprobs"] if endpoint == "completions" else request.get("top_logprobs", 0)
    sent = b"".join(stream(engine, endpoint, said, asked)) + DONE

    keep = body.keeps_logprobs(evidence)
    reader = opened(endpoint, kind, top, keep=keep, hold_tokens=hold, after_commit=after_commit)
    edges = [0, *sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
    out = b""
    for number, (a, b) in enumerate(pairwise(edges)):
        if number == commit_at:
            reader.commit()
        out += reader.feed(sent[a:b])
    out += reader.end()
    assert out == b"".join(stream(engine, endpoint, said, own)) + DONE
    assert reader.whole
    if after_commit or commit_at >= len(edges) - 1:
        by_hand = expected(engine, endpoint, said, kind, top, hold)
        assert nearly(reader.scores(), by_hand)
        once = opened(endpoint, kind, top, keep=keep, hold_tokens=hold)
        once.feed(sent)
        assert (once.scores(), once.tokens) == (reader.scores(), reader.tokens)


def nearly(one: Scores, other: Scores) -> bool:
    return (one.status, one.sorted_logprobs, one.margin, one.first_margin) == (
        other.status,
        other.sorted_logprobs,
        other.margin,
        other.first_margin,
    ) and one.entropy == pytest.approx(other.entropy)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(ENGINES),
    st.sampled_from(["chat", "completions"]),
    said_by,
    st.sampled_from(KINDS),
    st.integers(0, 4),
    st.integers(0, 6),
)
def test_a_whole_reply_has_the_scores_of_its_stream(
    engine: Engine, endpoint: Any, said: list[Token], kind: Any, top: int, hold: int
) -> None:
    """Where a part of the message is found in what was written; else it has none."""
    scores, left = read_evidence(
        endpoint, whole(engine, endpoint, [said], max(top, 1)), Evidence(tokens=kind, top=top), hold_tokens=hold, keep=NOTHING
    )
    assert left == whole(engine, endpoint, [said], None)
    streamed = fed(stream(engine, endpoint, said, max(top, 1)), endpoint=endpoint, kind=kind, top=top, hold_tokens=hold).scores()
    plain = len({token.part for token in said}) <= 1 and kind in ("all", "content") and (not said or said[0].part == "content")
    if plain or kind == "all":
        assert scores == streamed


hostile = st.lists(
    st.sampled_from(
        [
            text(one(-0.5, -0.5, -1.0)),
            text(one(-0.25, -0.25, -2.0)),
            text(one(-0.5)).replace(b"-0.5", b"NaN"),
            text(one("x")),
            text(one(None)),
            text([1]),
            text({"content": 5}),
            text({"content": [{"logprob": -0.5}, 5]}),
            text(),
            chunk({"reasoning": "x"}, one()),
            chunk({}, one()),
            chunk({"content": "x"}, one(), index=1),
            text(one(), "stop"),
            text(one()).replace(b'"x"', b'"\\q"'),
            text(one()).replace(b'"model"', b'"\xff"'),
            text(one(-0.5, -0.5, -1.0)).replace(b"-1.0", b"NaN"),
            text(one()).replace(b'"logprob"', b'"finish_reason"'),
            text(one()).replace(b'"top', b'\r"top'),
            text(one()).replace(b'"top', b'\n"top'),
            b": comment\n\n",
            text(one())[:-9],
            b"\n\n",
            DONE,
        ]
    ),
    max_size=12,
)


@settings(max_examples=600, deadline=None)
@given(
    hostile, st.lists(st.integers(0, 2500), max_size=10), st.sampled_from([None, NOTHING, 0, 1]), st.sampled_from(KINDS), st.integers(0, 3)
)
def test_whatever_is_sent_the_cut_does_not_matter(events: list[bytes], cuts: list[int], keep: int | None, kind: Any, hold: int) -> None:
    sent = b"".join(events)
    whole_reader = opened(kind=kind, keep=keep, hold_tokens=hold)
    everything = whole_reader.feed(sent) + whole_reader.end()
    reader = opened(kind=kind, keep=keep, hold_tokens=hold)
    edges = [0, *sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
    out = b"".join(reader.feed(sent[a:b]) for a, b in pairwise(edges)) + reader.end()
    assert out == everything
    assert (reader.scores(), reader.tokens, reader.whole) == (whole_reader.scores(), whole_reader.tokens, whole_reader.whole)
    assert (reader.broken, reader.error) == (whole_reader.broken, whole_reader.error)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([text(one(-0.5, -0.5, -1.0)), text(one(-0.25)), text(), chunk({"reasoning": "x"}, one())]), max_size=12))
def test_what_the_client_asked_for_is_handed_over_byte_for_byte(events: list[bytes]) -> None:
    sent = b"".join(events)
    reader = opened(keep=None)
    assert reader.feed(sent) is sent or not sent
    for event in events:
        assert reader.feed(event) is event


# What counts


def test_tokens_are_counted_to_the_one_though_a_chunk_has_several() -> None:
    three = {"content": [{"logprob": each} for each in (-0.1, -0.2, -0.3)]}
    reader = fed([text(three), text(three)], hold_tokens=4)
    assert (reader.tokens, reader.scores()) == (6, score([-0.1, -0.2, -0.3, -0.1]))


@pytest.mark.parametrize(
    ("kind", "values"), [("content", [-2.0, -0.5]), ("tool_arguments", [-4.0]), ("all", [-1.0, -1.5, -2.0, -0.5, -3.0, -4.0])]
)
def test_the_field_that_a_delta_carries_says_what_its_tokens_are(kind: Any, values: list[float]) -> None:
    call = {"tool_calls": [{"index": 0, "function": {"name": "f"}}]}
    reader = fed(
        [
            chunk({"role": "assistant", "content": ""}),
            chunk({"content": ""}, one(-1.0)),  # the beginning of the reasoning, which shows with the next
            chunk({"reasoning": "hm"}, one(-1.5)),
            chunk({"content": "x"}, one(-2.0)),
            chunk({}, one(-0.5)),
            chunk(call, one(-3.0)),
            chunk(delta("vllm", "tool_arguments", "{"), one(-4.0), "tool_calls"),
        ],
        kind=kind,
    )
    assert reader.scores() == score(values)
    assert reader.tokens == len(values)


def test_an_answer_of_the_end_alone_is_content() -> None:
    assert fed([chunk({"content": ""}, one(-0.5), "stop")]).scores() == score([-0.5])


def test_evidence_before_any_text_is_bounded() -> None:
    reader = fed([chunk({}, one(-0.5))] * (PENDING_MAX + 5))
    assert reader.tokens == PENDING_MAX + 5


def test_only_as_many_of_the_likeliest_are_scored_as_the_policy_wants() -> None:
    """The client may have asked for more: one calibration serves both."""
    found = fed([text(one(-0.5, -0.5, -1.0, -2.0), "stop")], keep=None, top=2).scores()
    assert found == score([-0.5], [[-0.5, -1.0]])
    assert fed([text(one(-0.5, -0.5, -1.0), "stop")], keep=None, top=0).scores() == score([-0.5])


def test_of_several_choices_the_worst_decides() -> None:
    reader = opened(choices=2, hold_tokens=2)
    for index, logprob in ((0, -0.1), (1, -2.0), (0, -0.1), (1, -0.1)):
        reader.feed(chunk({"content": "x"}, one(logprob), index=index))
    assert reader.scores().status == "ok"
    assert reader.scores().min_logprob == -2.0
    assert reader.scores().mean_logprob == pytest.approx(-1.05)
    body = whole("vllm", "chat", [[Token("content", (("a", -0.1),), 0)], [Token("content", (("a", -2.0),), 0)]], 1)
    assert read_evidence("chat", body, Evidence(), hold_tokens=1)[0].mean_logprob == -2.0


# What is missing, or no evidence


def test_too_few_tokens_without_an_end_are_truncated_and_with_one_they_are_all() -> None:
    reader = fed([text(one())] * 3, hold_tokens=4)
    assert reader.scores().status == "truncated"
    reader.feed(text(one(), None))
    assert reader.scores().status == "ok"
    assert fed([text(one()), text(one(), "stop")], hold_tokens=4).scores().status == "ok"
    assert fed([text(one())] * 3).scores().status == "truncated", "a hold of all is a hold to the end"


def test_a_backend_that_stops_sending_evidence() -> None:
    reader = fed([text(one()), text(one()), text(), text()], hold_tokens=4)
    assert reader.tokens == 4, "a hold is over, though its evidence never comes"
    assert reader.scores().status == "truncated"
    reader.feed(text(None, "stop") + DONE)
    assert reader.scores().status == "truncated"
    assert fed([text(one()), text(), text(one(), "stop")]).scores().status == "partial"
    assert fed([text(), text(None, "stop")]).scores() == UNAVAILABLE
    after = fed([text(one()), text(one()), text(), text(None, "stop")], hold_tokens=2)
    assert after.scores().status == "ok", "what came after the hold does not count"


@pytest.mark.parametrize(
    "odd",
    [
        5,
        [],
        [5],
        {"content": 5},
        {"content": [5]},
        {"content": [{"logprob": "x"}]},
        {"content": [{}]},
        {"token_logprobs": [None]},
        one(0.5),
    ],
    ids=repr,
)
def test_evidence_that_is_none_is_unavailable_and_the_answer_goes_on(odd: Any) -> None:
    sent = text(one()) + text(odd) + text(one(), "stop") + DONE
    reader = opened()
    out = reader.feed(sent)
    assert reader.whole
    assert reader.scores() == UNAVAILABLE
    assert [json.loads(each[6:])["choices"][0]["delta"] for each in out.split(b"\n\n")[:3]] == [{"content": "x"}] * 3
    body = compact({"choices": [{"message": {"content": "x"}, "logprobs": odd, "finish_reason": "stop"}]})
    assert read_evidence("chat", body, Evidence())[0] == UNAVAILABLE


@pytest.mark.parametrize("learned", [False, True])
def test_not_a_number_is_unavailable_and_the_answer_goes_on(learned: bool) -> None:
    bad = text(one(-0.5)).replace(b"-0.5", b"NaN")
    assert b"NaN" in bad
    reader = fed([text(one())] * learned)
    assert b"NaN" not in reader.feed(bad)
    reader.feed(text(one(), "stop"))
    assert (reader.whole, reader.scores()) == (True, UNAVAILABLE)
    body = compact({"choices": [{"message": {"content": "x"}, "logprobs": one("N"), "finish_reason": "stop"}]}).replace(b'"N"', b"NaN")
    scores, left = read_evidence("chat", body, Evidence(), keep=NOTHING)
    assert scores == UNAVAILABLE
    assert json.loads(left)["choices"][0]["logprobs"] is None


def test_minus_infinity_is_a_number() -> None:
    assert fed([text(one(-9999.0), "stop")]).scores().min_logprob == -float("inf")
    assert fed([text(one(-0.5), "stop").replace(b"-0.5", b"-Infinity")]).scores().min_logprob == -float("inf")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"5", b'{"choices":5}', b'{"choices":[]}', b'{"choices":[{}]}', b'{"error":"x"}', b"\xff"]
)
def test_a_reply_that_is_none_is_unavailable(body: bytes) -> None:
    assert read_evidence("chat", body, Evidence(), keep=NOTHING) == (UNAVAILABLE, body)


@pytest.mark.parametrize("endpoint", ["responses", "messages", "embeddings"])
def test_endpoints_without_evidence(endpoint: Endpoint) -> None:
    body = b'{"output":[{"logprobs":{}}]}'
    assert read_evidence(endpoint, body, Evidence(), keep=NOTHING) == (UNAVAILABLE, body)


# What is not parsed


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("keep", [None, NOTHING])
def test_after_the_commit_chunks_with_evidence_are_not_parsed(monkeypatch: pytest.MonkeyPatch, engine: Engine, keep: int | None) -> None:
    said = [Token("content", ((word, -0.5), ("y", -1.0)), 0) for word in ("a", ' "b', "c")]
    events, plain = stream(engine, "chat", said, 2), stream(engine, "chat", said, None)
    reader = opened(keep=keep)
    for event in events[:-2]:
        reader.feed(event)
    reader.commit()
    monkeypatch.setattr(ChunkStream, "_read", None)
    monkeypatch.setattr(EvidenceReader, "take_alike", None)
    assert reader.feed(events[-2]) == (events if keep is None else plain)[-2]
    assert reader.feed(events[-2] * 16) == (events if keep is None else plain)[-2] * 16


def test_while_evidence_is_read_it_alone_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = fed([text(one())])
    monkeypatch.setattr(ChunkStream, "_read", None)
    out = reader.feed(text(one()) * 3)
    assert out == text() * 3
    assert (reader.tokens, reader.scores().tokens) == (4, 4)


def test_reading_on_after_the_commit() -> None:
    reader, idle = opened(after_commit=True), opened()
    for each in (reader, idle):
        each.feed(text(one()))
        each.commit()
        each.feed(text(one(), "stop"))
    assert (reader.scores().tokens, idle.scores().tokens) == (2, 1)


def test_a_finish_inside_what_is_not_parsed_is_found() -> None:
    reader = fed([text(one())])
    reader.commit()
    sly = text(one()).replace(b'"token":"x"', b'"token":"x"}]},"finish_reason":"stop"},{"index":0,"delta":{},"logprobs":{"content":[{"x":1')
    json.loads(sly[6:])
    reader.feed(sly)
    assert reader.finish_reasons == ("stop",)
