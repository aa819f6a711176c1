"""What a reply says, whole and streamed, however it is cut."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol import said
from gateway.protocol.said import COMPARED_BYTES_MAX, SaidReader
from policies.agreement import Said
from policies.plan import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = ("chat", "completions", "responses", "messages", "embeddings")


def read(endpoint: Endpoint, *pieces: bytes, stream: bool) -> Said | None:
    reader = SaidReader(endpoint, stream=stream)
    for piece in pieces:
        reader.feed(piece)
    return reader.said()


def whole(endpoint: Endpoint, reply: object) -> Said | None:
    return read(endpoint, json.dumps(reply).encode(), stream=False)


def sse(*events: object, done: bool = True) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + (b"data: [DONE]\n\n" if done else b"")


def chat(**message: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}]}


def delta(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


def call(name: str | None, arguments: Any, **more: Any) -> dict[str, Any]:
    return {"id": "call-1", "type": "function", "function": {"name": name, "arguments": arguments}, **more}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": "hi"}, Said("hi")),
        ({"content": None}, Said()),
        ({"content": "hi", "reasoning_content": "hm"}, Said("hi")),
        ({"content": [{"type": "text", "text": "a"}, {"type": "other"}, {"type": "text", "text": "b"}]}, Said("ab")),
        ({"content": None, "refusal": "no"}, Said("no")),
        ({"content": None, "tool_calls": [call("find", '{"a":1}'), call("send", "")]}, Said("", (("find", '{"a":1}'), ("send", "")))),
        ({"content": None, "tool_calls": [call("find", {"a": 1})]}, Said("", (("find", '{"a":1}'),))),
        ({"content": None, "function_call": {"name": "find", "arguments": "{}"}}, Said("", (("find", "{}"),))),
    ],
)
def test_a_whole_chat_message(message: dict[str, Any], expected: Said) -> None:
    assert whole("chat", chat(**message)) == expected


STREAM = sse(
    delta(role="assistant", content=""),
    delta(reasoning_content="hm"),
    delta(content="hé"),
    delta(content="llo"),
    delta(tool_calls=[call("find", "", index=0)]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}]),
    delta(tool_calls=[call("send", "{}", index=1)]),
    delta(tool_calls=[{"index": 0, "function": {"name": None, "arguments": ":1}"}}]),
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    {"choices": [], "usage": {"prompt_tokens": 1}},
)
SAID = Said("héllo", (("find", '{"a":1}'), ("send", "{}")))


@given(st.lists(st.integers(1, len(STREAM) - 1), max_size=8))
def test_how_a_stream_is_cut_changes_nothing(cuts: list[int]) -> None:
    ends = sorted({0, *cuts, len(STREAM)})
    assert read("chat", *(STREAM[start:end] for start, end in itertools.pairwise(ends)), stream=True) == SAID


def test_a_mark_at_the_beginning_is_no_part_of_the_first_event() -> None:
    assert read("chat", b"\xef\xbb\xbf" + sse(delta(content="hi")), stream=True) == Said("hi")


def test_completions() -> None:
    assert whole("completions", {"choices": [{"text": "hi there"}]}) == Said("hi there")
    assert read("completions", sse({"choices": [{"text": "hi "}]}, {"choices": [{"text": "there"}]}), stream=True) == Said("hi there")


def test_responses() -> None:
    output = [
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "content": [{"type": "output_text", "text": "hi"}, {"type": "refusal", "refusal": "no"}]},
        {"type": "function_call", "name": "find", "arguments": '{"a":1}', "call_id": "c"},
    ]
    expected = Said("hino", (("find", '{"a":1}'),))
    assert whole("responses", {"object": "response", "output": output}) == expected
    events = sse(
        {"type": "response.created", "response": {"output": []}},
        {"type": "response.output_text.delta", "delta": "hi"},
        {"type": "response.completed", "response": {"output": output}},
        done=False,
    )
    assert read("responses", events, stream=True) == expected
    assert read("responses", sse({"type": "response.created", "response": {"output": []}}), stream=True) is None, "it has not ended"


def test_messages() -> None:
    blocks = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "hi"},
        {"type": "tool_use", "id": "t", "name": "find", "input": {"a": 1}},
    ]
    expected = Said("hi", (("find", '{"a":1}'),))
    assert whole("messages", {"type": "message", "content": blocks}) == expected
    events = sse(
        {"type": "message_start", "message": {"content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "find", "input": {}}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a":'}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "1}"}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        {"type": "message_stop"},
        done=False,
    )
    assert read("messages", events, stream=True) == expected


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    "reply", [b"", b"no json", b"[1]", b"data: {\n\n", b'{"choices":[{"delta":{"refusal":7}}]}', b"\xff", b"[" * 9_000]
)
def test_what_is_no_reply_says_nothing(endpoint: Endpoint, stream: bool, reply: bytes) -> None:
    assert read(endpoint, b"data: " + reply + b"\n\n" if stream else reply, stream=stream) is None


TYPES = ["", "text", "message", "tool_use", "message_start", "response.completed"]
NAMES = "type choices delta message content tool_calls function arguments name index text input response output content_block partial_json"
SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(TYPES),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES.split()), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(ENDPOINTS), st.booleans(), st.lists(SHAPES, max_size=3))
def test_replies_of_any_shape_are_survived(endpoint: Endpoint, stream: bool, values: list[Any]) -> None:
    found = read(endpoint, sse(*values) if stream else json.dumps(values[:1]).encode(), stream=stream)
    assert found is None or isinstance(found, Said)
    if not stream and values:
        whole(endpoint, values[0])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("over", [-200, 1])
def test_a_long_reply_is_not_kept(stream: bool, over: int) -> None:
    text = "x" * (COMPARED_BYTES_MAX + over)
    reader = SaidReader("chat", stream=stream)
    for piece in [sse(delta(content=text))] if stream else [json.dumps(chat(content=text)).encode()]:
        reader.feed(piece)
    reader.feed(b"")
    assert reader.too_long == (over > 0)
    assert (reader.said() is None) == (over > 0)


@pytest.mark.parametrize(
    "piece",
    [b"data: x", sse(delta(content="word")), sse(delta(tool_calls=[{"index": 0, "function": {"arguments": ""}}]))],
    ids=["an event that never ends", "text", "arguments that say nothing"],
)
def test_an_endless_stream_is_given_up(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(said, "COMPARED_BYTES_MAX", 500)
    reader = SaidReader("chat", stream=True)
    for _ in range(501):
        assert not reader.too_long or reader.said() is None
        reader.feed(piece)
    assert reader.too_long
