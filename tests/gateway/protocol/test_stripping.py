"""What is left of a reply without the evidence that the gateway asked for."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocol.sse import event_data
from gateway.protocol.stripping import NOTHING, cut, likeliest, strip, strip_event
from tests.gateway.protocol.recorded import body_of, events_of
from tests.gateway.protocol.simulated import ENGINES, Engine, Token, compact, stream, tokens, whole

engines = st.sampled_from(ENGINES)


def stripped(event: bytes, keep: int = NOTHING) -> bytes:
    data = event_data(event)
    assert data is not None
    return strip_event(event, data, strip(data, keep)) if data != b"[DONE]" else event


def alike(reply: bytes) -> bytes:
    """Without what differs between two recordings of one request."""
    reply = re.sub(rb'"id":"[^"]*"|"created":\d+|"cached_tokens":\d+|"timings":\{[^}]*\}', b"", reply)
    return reply.replace(b',"system_fingerprint":"vllm-0.32.0-2bc996cd"', b"")  # in the last chunk, wherever that is


# The recordings: the same request with and without.


@pytest.mark.parametrize("engine", ENGINES)
def test_a_recorded_stream_is_the_one_that_was_not_asked_for_evidence(engine: str) -> None:
    asked = [stripped(event) for event in events_of(engine, "chat_stream_usage_logprobs") if b'"choices":[]' not in event]
    plain = [event for event in events_of(engine, "chat_stream") if b'"choices":[]' not in event]
    assert [alike(event).replace(b",}", b"}") for event in asked] == [alike(event).replace(b",}", b"}") for event in plain]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_recorded_reply_is_the_one_that_was_not_asked_for_evidence(engine: str) -> None:
    assert alike(strip(body_of(engine, "chat_logprobs"), NOTHING)) == alike(body_of(engine, "chat"))


def test_a_recorded_reply_is_cut_to_the_list_that_was_not_asked_for() -> None:
    """Ollama's, with three and with none of the likeliest: to the byte."""
    assert alike(strip(body_of("ollama", "chat_logprobs"), 0)) == alike(body_of("ollama", "chat_logprobs_no_top"))
    cut = strip(body_of("vllm", "chat_logprobs"), 2)
    assert json.loads(cut)["choices"][0]["logprobs"]["content"][1]["top_logprobs"][1:] == [
        {"token": "technical", "logprob": -12.232799530029297, "bytes": [116, 101, 99, 104, 110, 105, 99, 97, 108]}
    ]
    assert strip(body_of("vllm", "chat_logprobs"), 0).count(b'"top_logprobs":[]') == 2
    assert strip(body_of("vllm", "chat_logprobs"), 3) == body_of("vllm", "chat_logprobs")


def test_recorded_completions() -> None:
    reply = strip(body_of("vllm", "completions"), NOTHING)
    assert b'"text":"billingtechnicaltechnical","logprobs":null,"finish_reason":"length"' in reply
    one = json.loads(strip(body_of("vllm", "completions"), 1))["choices"][0]["logprobs"]
    assert one["top_logprobs"] == [{"billing": -0.5922878980636597}, {"technical": -0.5580382347106934}, {"technical": -0.3922215402126312}]
    assert b'"index":0,"logprobs":null,"finish_reason"' in strip(body_of("llama-server", "completions"), 0)


# Laws


@settings(max_examples=200, deadline=None)
@given(engines, st.sampled_from(["chat", "completions"]), tokens(), st.integers(0, 5), st.none() | st.integers(0, 5))
def test_what_is_left_is_what_would_have_been_answered(engine: Engine, endpoint: Any, said: list[Token], top: int, own: int | None) -> None:
    if engine == "llama-server" and own == 0 and endpoint == "chat":
        return  # which it takes for no log-probabilities: it is never asked so
    asked = max(top, own or 0, 1)
    keep = NOTHING if own is None else own
    wanted = None if engine == "llama-server" and own == 0 else own
    assert [stripped(event, keep) for event in stream(engine, endpoint, said, asked)] == stream(engine, endpoint, said, wanted)
    both = [said, list(reversed(said))]
    assert strip(whole(engine, endpoint, both, asked), keep) == whole(engine, endpoint, both, wanted)


fragments: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers(0, 9) | st.sampled_from(["", '"', "\\", '"},"logprobs":{', '"logprobs":{"content":[]},"finish_reason":null}']),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["logprobs", "choices", "content", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
LOGPROBS = {"content": [{"token": '"}', "logprob": -0.5, "top_logprobs": [{"token": "]}", "logprob": -0.5}]}]}


@st.composite
def odd_chunks(draw: st.DrawFn) -> dict[str, Any]:
    """Chunks with their fields in any order, with nested fields of the same names, and any number of choices."""

    def mixed(fields: dict[str, Any]) -> dict[str, Any]:
        return {name: fields[name] for name in draw(st.permutations(sorted(fields)))}

    choices = []
    for index in range(draw(st.integers(0, 3))):
        delta = {"content": draw(st.text(max_size=4) | st.sampled_from(['","logprobs":{', "}]}"])), "extra": draw(fragments)}
        choice = {"index": index, "delta": mixed(delta), "finish_reason": None, "meta": draw(fragments)}
        choices.append(mixed(choice | ({"logprobs": draw(st.sampled_from([None, {}, LOGPROBS]))} if draw(st.booleans()) else {})))
    return mixed({"id": "c", "choices": choices, "logprobs": draw(fragments), "x": draw(fragments)})


def reference(chunk: dict[str, Any]) -> dict[str, Any]:
    """The same by decoding: the fields of each choice, but for its log-probabilities, in their order."""
    choices = []
    for choice in chunk["choices"]:
        names = list(choice)
        if isinstance(choice.get("logprobs"), dict):
            choice = {name: value for name, value in choice.items() if name != "logprobs" or names[-1] != "logprobs"}
            choice |= {"logprobs": None} if "logprobs" in choice else {}
        choices.append(choice)
    return {**chunk, "choices": choices}


@settings(max_examples=400, deadline=None)
@given(odd_chunks(), st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " :  ")]))
def test_cutting_is_the_same_as_decoding_and_encoding(chunk: dict[str, Any], separators: tuple[str, str]) -> None:
    written = json.dumps(chunk, separators=separators).encode()
    assert json.loads(strip(written, NOTHING)) == json.loads(json.dumps(reference(chunk)))
    if separators == (",", ":"):
        assert strip(written, NOTHING) == json.dumps(reference(chunk), separators=separators).encode()


@given(st.sampled_from(["chat", "completions"]), tokens(), st.integers(0, 6), engines)
def test_what_was_not_asked_for_in_vain_stays_as_it_is(endpoint: Any, said: list[Token], top: int, engine: Engine) -> None:
    written = whole(engine, endpoint, [said], None)
    assert strip(written, NOTHING) == strip(written, top) == written


listed = st.lists(
    st.lists(st.fixed_dictionaries({"token": st.sampled_from(["a", '"top_logprobs":[', "]}"]), "logprob": st.floats(-9, 0)}), max_size=4)
)


@settings(max_examples=300, deadline=None)
@given(listed, st.integers(0, 4), st.booleans(), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_lists_are_cut_as_by_walking_through_them(
    tops: list[list[dict[str, Any]]], keep: int, last: bool, separators: tuple[str, str]
) -> None:
    entries = [{"token": "x", "logprob": -1.0, "top_logprobs": top, "y": 1} for top in tops]
    logprobs = json.dumps({"content": entries}, separators=separators).encode()
    found = cut(logprobs, keep, omits=last)
    head, tail = (b'{"choices":[{"logprobs":', b"}]}") if last else (b'{"choices":[{"logprobs":', b',"x":1}]}')
    assert found is not None or separators != (",", ":")
    if found is not None:
        assert head + found + tail == strip(head + logprobs + tail, keep)


@pytest.mark.parametrize(
    "odd",
    [
        b'{"content":[{"top_logprobs":null}]}',
        b'{"content":[{"other":{"top_logprobs":[1,2]}}]}',
        b'{"content":[{"top_logprobs":[1],"other":{"top_logprobs":[1]}}]}',
        b'{"content":[{"top_logprobs":[1, 2]}]}',
        b'{"top_logprobs":[{}],"content":[{}]}',
        b'{"content":[{"top_logprobs":[NaN]}]}',
        b'{"content":5}',
    ],
)
def test_what_is_written_otherwise_is_left_to_walking(odd: bytes) -> None:
    assert cut(odd, 0, omits=True) is None


# Cases


def test_names_that_are_repeated_are_what_a_parser_makes_of_them() -> None:
    written = b'{"choices":[{"index":0,"logprobs":{"content":[]},"delta":{},"logprobs":{"content":[1]}}]}'
    assert json.loads(strip(written, NOTHING)) == {"choices": [{"index": 0, "logprobs": None, "delta": {}}]}


def test_not_a_number_is_taken_out_too() -> None:
    written = b'{"choices":[{"delta":{"content":"NaN"},"logprobs":{"content":[{"logprob":NaN}]},"finish_reason":null}]}'
    assert strip(written, NOTHING) == b'{"choices":[{"delta":{"content":"NaN"},"logprobs":null,"finish_reason":null}]}'
    assert strip(written, 2) == written


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": 5},
        {"choices": [5, None, {"logprobs": 5}, {"logprobs": [1]}]},
        {"choices": [{"logprobs": {"content": 5, "refusal": [5, {"top_logprobs": 5}], "top_logprobs": [5, None]}, "x": 1}]},
        {"logprobs": {"content": []}},
    ],
)
def test_what_has_another_shape_is_left_alone(odd: Any) -> None:
    assert strip(compact(odd), 2) == compact(odd)


def test_what_is_no_json_is_said() -> None:
    with pytest.raises(msgspec.DecodeError):
        strip(b'{"logprobs":', NOTHING)


def test_the_lines_of_an_event_stay() -> None:
    for event, expected in (
        (
            b': x\r\nevent: y\r\ndata:{"choices":[{"logprobs":{},"i":0}]}\r\n\r\n',
            b': x\r\nevent: y\r\ndata: {"choices":[{"logprobs":null,"i":0}]}\r\n\r\n',
        ),
        (
            b'data: {"choices":[{"logprobs":{\ndata: },\ndata: "i":0}]}\nid: 7\n\n',
            b'data: {"choices":[{"logprobs":null,\ndata: "i":0}]}\nid: 7\n\n',
        ),
        (b'\xef\xbb\xbfdata: {"choices":[{"logprobs":{}}]}\n\n', b'\xef\xbb\xbfdata: {"choices":[{}]}\n\n'),
    ):
        data = event_data(event.removeprefix(b"\xef\xbb\xbf"))
        assert data is not None
        assert strip_event(event, data, strip(data, NOTHING)) == expected


@pytest.mark.parametrize(
    ("values", "number", "expected"),
    [
        ([-1.0, -2.0, -3.0], 2, [-1.0, -2.0]),
        ([-1.0, -2.0, -3.0], 0, [-1.0]),
        ([-3.0, -1.0, -2.0], 2, [-3.0, -1.0, -2.0]),
        ([-3.0, -1.0, -2.0], 1, [-3.0, -1.0]),
        ([-2.0, -1.0, -3.0], 2, [-2.0, -1.0]),
        ([], 2, []),
    ],
)
def test_the_chosen_token_comes_first_whatever_its_rank(values: list[object], number: int, expected: list[object]) -> None:
    assert likeliest(values, number) == expected
