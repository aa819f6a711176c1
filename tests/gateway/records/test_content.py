"""What is stored of requests and responses."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.records.content import PARTS_MAX, prepared, streamed_parts
from gateway.records.redact import Redactor, SlowTextError
from tests.gateway.records.examples import content

RULES = ("email", "phone", "card", "iban", "regex:ACME-[0-9]+")


def request(data: bytes, *rules: str) -> str:
    return prepared(content(data), Redactor(rules or RULES)).request.decode()


def stream(*events: object, end: bytes = b"data: [DONE]\n\n", eol: bytes = b"\n") -> bytes:
    lines = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + end
    return lines.replace(b"\n", eol)


def parts(response: bytes, *rules: str) -> list[dict[str, Any]]:
    stored: list[dict[str, Any]] = json.loads(prepared(content(b"{}", response), Redactor(rules or RULES)).response)
    return stored


def test_strings_are_redacted_and_the_rest_stays_as_it_was_written() -> None:
    body = rb'{ "model":"m", "n" : 1.50,"messages":[{"content":"I am a@b.com, \"ACME-12\""}], "created": 1763683200, "x": null}'
    assert (
        request(body)
        == r'{ "model":"m", "n" : 1.50,"messages":[{"content":"I am [email], \"[redacted]\""}], "created": 1763683200, "x": null}'
    )


def test_what_a_string_says_counts_not_how_it_is_spelt() -> None:
    assert request(rb'{"a": "jane\u0040example\u002ecom"}') == '{"a": "[email]"}'
    assert request(rb'{"jane@example.com": "4111\u00201111 1111 1111"}') == '{"[email]": "[card]"}'


def test_json_within_a_string_is_looked_into() -> None:
    arguments = json.dumps({"to": "jane@example.com", "n": 3}).replace("@", r"\u0040")
    stored = json.loads(request(json.dumps({"arguments": arguments}).encode()))
    assert json.loads(stored["arguments"]) == {"to": "[email]", "n": 3}


def test_long_numbers_are_looked_at_too() -> None:
    assert request(b'{"card": 4111111111111111, "id": 123456789012345678}') == '{"card": "[card]", "id": 123456789012345678}'


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_request_that_was_cut_keeps_no_address(cut: int) -> None:
    whole = rb'{"a": "x jane\u0040example.com y", "b": ["+49 30 901820 z"]}'
    stored = request(whole[:-cut])
    assert "jane@example.c" not in stored.replace(r"\u0040", "@")
    assert "901820" not in stored


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"write to jane@example.com",
        b'{not json: jane@example.com, call "555-123-4567}',
        b"[jane@example.com",
        b"\xff\xfejane@example.com",
    ],
)
def test_what_is_no_json_is_redacted_as_text(body: bytes) -> None:
    stored = request(body)
    assert "jane" not in stored
    assert "4567" not in stored


def test_deep_nesting_is_no_way_around() -> None:
    assert "jane" not in request(b"[" * 100_000 + b'"jane@example.com"')


def test_without_rules_a_request_stays_as_it_is() -> None:
    body = rb'{"a":  "jane\u0040example.com"}'
    stored = prepared(content(body, b"answer", truncated=True), Redactor(()))
    assert stored == content(body, b"answer", truncated=True)


def chat(text: str, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text}, **more}]}


def test_an_address_over_several_chunks_is_found() -> None:
    response = stream(
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}, *map(chat, ["write ja", "ne@exam", "ple.", "com now"])
    )
    assert parts(response) == [{"index": 0, "kind": "content", "text": "write [email] now"}]


def test_choices_are_put_together_each_by_itself() -> None:
    response = stream(chat("a@", 0), chat("c@", 1), chat("b.com", 0), chat("d.com", 1), chat("", 0, finish_reason="stop"))
    assert parts(response) == [
        {"index": 0, "kind": "content", "text": "[email]"},
        {"index": 1, "kind": "content", "text": "[email]"},
        {"index": 0, "kind": "finish_reason", "text": "stop"},
    ]


def test_tool_calls_are_put_together() -> None:
    def call(index: int, **function: str) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": index, "function": function}]}}]}

    response = stream(
        call(0, name="mail", arguments='{"to": "ja'), call(1, name="noop", arguments="{}"), call(0, arguments='ne\\u0040example.com"}')
    )
    assert parts(response) == [
        {"index": 0, "kind": "tool_calls[0].name", "text": "mail"},
        {"index": 0, "kind": "tool_calls[0].arguments", "text": '{"to": "[email]"}'},
        {"index": 0, "kind": "tool_calls[1].name", "text": "noop"},
        {"index": 0, "kind": "tool_calls[1].arguments", "text": "{}"},
    ]


def test_streams_of_the_other_endpoints() -> None:
    assert parts(stream({"choices": [{"index": 0, "text": "a@b"}]}, {"choices": [{"index": 0, "text": ".com"}]})) == [
        {"index": 0, "kind": "text", "text": "[email]"}
    ]
    delta = {"type": "response.output_text.delta", "output_index": 1}
    assert parts(stream({**delta, "delta": "a@b"}, {**delta, "delta": ".com"}, {"type": "response.completed", "response": {}})) == [
        {"index": 1, "kind": "output_text", "text": "[email]"}
    ]
    block = {"type": "content_block_delta", "index": 0}
    messages = stream(
        {**block, "delta": {"type": "text_delta", "text": "a@b"}},
        {**block, "delta": {"type": "text_delta", "text": ".com"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        end=b"",
    )
    assert parts(b"event: x\n" + messages) == [
        {"index": 0, "kind": "text", "text": "[email]"},
        {"index": 0, "kind": "stop_reason", "text": "end_turn"},
    ]


def test_an_error_within_a_stream_is_kept() -> None:
    assert parts(stream(chat("so far"), {"error": {"message": "boom for a@b.com"}}))[1] == {
        "index": 0,
        "kind": "error.message",
        "text": "boom for [email]",
    }


@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"])
def test_every_line_ending_comments_and_cut_events(eol: bytes) -> None:
    response = b": hello\n\n" + stream(chat("a"), chat("b"), end=b'data: {"choices": [{"ind').replace(b"\n", eol)
    assert parts(response) == [{"index": 0, "kind": "content", "text": "ab"}]


@pytest.mark.parametrize(
    "event", [1, None, [], {"choices": 5}, {"choices": [3]}, {"choices": [{"index": "x", "delta": 7}]}, {"delta": [1]}, {"error": "text"}]
)
def test_events_of_any_shape_are_survived(event: object) -> None:
    assert parts(stream(event)) == []


def test_parts_are_bounded() -> None:
    stored = prepared(content(b"{}", stream(*[chat("x", index) for index in range(PARTS_MAX + 5)])), Redactor(()))
    assert len(json.loads(stored.response)) == PARTS_MAX
    assert stored.truncated


def test_a_whole_response_is_json_not_a_stream() -> None:
    assert streamed_parts(b'{"choices": []}') is None
    assert prepared(content(b"{}", b'{"a": "a@b.com"}'), Redactor(RULES)).response == b'{"a": "[email]"}'


def test_what_takes_too_long_is_not_stored() -> None:
    seconds = iter(range(1_000))
    with pytest.raises(SlowTextError):
        prepared(content(b'["a", "b", "c"]'), Redactor(("email",), clock=lambda: float(next(seconds))))


@given(st.binary(max_size=300), st.binary(max_size=300), st.sampled_from([b"", b"data: ", b"{", b'["', b'data: {"choices":']))
def test_any_bytes_are_survived(asked: bytes, answered: bytes, prefix: bytes) -> None:
    stored = prepared(content(prefix + asked, prefix + answered), Redactor(RULES))
    stored.request.decode()
    stored.response.decode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, st.booleans())
def test_json_stays_json_of_the_same_shape(value: object, ascii_only: bool) -> None:
    body = json.dumps([value, "a@b.com"], ensure_ascii=ascii_only).encode("utf-8", "replace")
    stored = json.loads(request(body, "email"))
    assert stored[1] == "[email]"
    if "@" not in body.decode():
        assert stored[0] == value


@given(st.text(alphabet="ab1@. é\U0001f600", max_size=40), st.lists(st.integers(0, 40), max_size=8))
def test_how_a_stream_is_cut_changes_nothing(text: str, cuts: list[int]) -> None:
    bounds = sorted({0, len(text), *[min(cut, len(text)) for cut in cuts]})
    pieces = [text[a:b] for a, b in pairwise(bounds)] or [text]
    assert parts(stream(*map(chat, pieces)), "email") == parts(stream(chat(text)), "email")
