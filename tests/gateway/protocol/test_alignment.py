"""Which tokens of a whole reply are its content and which its tool calls."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocol.alignment import located
from gateway.protocol.evidence import EvidenceReader, read_evidence
from gateway.protocol.stream import open_stream
from policies.plan import Evidence
from policies.scores import UNAVAILABLE, score
from tests.gateway.protocol.simulated import Engine, Token, compact, stream, tokens, whole


def entries(*texts: str, bytes_: bool = True) -> list[dict[str, Any]]:
    """A token each, of log-probability -0, -1, -2 and so on."""
    return [
        {"token": text, "logprob": -float(i), "bytes": list(text.encode()) if bytes_ else None, "top_logprobs": []}
        for i, text in enumerate(texts)
    ]


def scores_of(message: dict[str, Any], said: list[dict[str, Any]], kind: Any = "content", hold: int = 0) -> Any:
    body = compact({"choices": [{"message": message, "logprobs": {"content": said}, "finish_reason": "stop"}]})
    return read_evidence("chat", body, Evidence(tokens=kind), hold_tokens=hold)[0]


SAID = entries("<think>", "well", " then", "</think>", "\n\n", "bil", "ling", "<call>", '{"a":', " 1}", "<|im_end|>")
CALLS = [{"function": {"name": "f", "arguments": '{"a": 1}'}}]


@pytest.mark.parametrize("reasoning", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize(
    ("kind", "values"), [("content", [-5.0, -6.0]), ("tool_arguments", [-8.0, -9.0]), ("all", [-float(i) for i in range(11)])]
)
def test_the_parts_of_a_message_are_found_in_what_was_written(reasoning: str, kind: str, values: list[float]) -> None:
    message = {"content": "billing", reasoning: "well then", "tool_calls": CALLS}
    assert scores_of(message, SAID, kind) == score(values)
    assert scores_of(message, SAID, kind, hold=1) == score(values[:1])


def test_without_reasoning_and_calls_all_that_was_written_is_content() -> None:
    assert scores_of({"content": "anything"}, entries("<s>", "any", "thing", "</s>")).tokens == 4
    assert scores_of({"refusal": "no", "content": None}, entries("no")).tokens == 1


def test_the_end_belongs_to_the_content_that_it_follows() -> None:
    assert scores_of({"content": "b", "reasoning": "a"}, entries("a", "</think>", "b", "<|im_end|>")) == score([-2.0, -3.0])


def test_content_that_repeats_the_reasoning_is_sought_after_it() -> None:
    assert scores_of({"content": "yes", "reasoning": "yes yes"}, entries("yes", " yes", "</think>", "yes")) == score([-3.0])


def test_arguments_that_the_engine_wrote_anew_are_found_without_their_blanks() -> None:
    said = entries("<call>", '{ "a"', ":1", ' , "b" : 2}', "</call>")
    message = {"content": None, "tool_calls": [{"function": {"arguments": '{"a": 1, "b": 2}'}}]}
    assert scores_of(message, said, "tool_arguments") == score([-1.0, -2.0, -3.0])
    assert scores_of({"content": "", "function_call": message["tool_calls"][0]["function"]}, said, "tool_arguments").tokens == 3


def test_half_a_character_does_not_hide_the_rest() -> None:
    """vLLM writes a replacement character for a token that is part of one."""
    said = entries("a", "</think>", "x", "\ufffd", "\ufffd", "y", bytes_=False)
    assert scores_of({"content": "x\U0001f600y", "reasoning": "a"}, said) == score([-2.0, -3.0, -4.0, -5.0])


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ({"content": "not there", "reasoning": "well then"}, "content"),
        ({"content": "billing", "reasoning": "summed up"}, "content"),
        ({"content": ["x"], "reasoning": "well then"}, "content"),
        ({"content": None, "reasoning": "well then"}, "content"),
        ({"content": "billing"}, "tool_arguments"),
        ({"content": "billing", "tool_calls": [{"function": {"arguments": "{}"}}]}, "tool_arguments"),
        ({"content": "billing", "tool_calls": [{"function": {"arguments": ""}}]}, "tool_arguments"),
        ({"content": "billing", "tool_calls": [{"function": {"arguments": "\u00e9"}}]}, "tool_arguments"),
    ],
)
def test_what_cannot_be_told_apart_or_is_not_there_is_unavailable(message: dict[str, Any], kind: str) -> None:
    assert scores_of(message, SAID, kind) == UNAVAILABLE


def test_evidence_that_ends_before_the_text_is_truncated() -> None:
    said = entries("some", " of")
    assert scores_of({"content": "some of it and more"}, said, hold=4).status == "truncated"
    assert scores_of({"content": "some of it and more"}, said).status == "truncated"
    assert scores_of({"content": "some of it and more"}, said, hold=2).status == "ok"
    assert scores_of({"content": "some of"}, said, hold=4).status == "ok"


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["llama-server", "ollama"]), tokens(), st.sampled_from(["content", "tool_arguments"]))
def test_a_part_that_is_found_is_the_one_that_was_streamed(engine: Engine, said: list[Token], kind: Any) -> None:
    """Each part is written in a letter of its own, so that none can be taken for another."""
    letters = {"reasoning": "r", "content": "c", "tool_arguments": "t"}
    distinct = [
        Token(token.part, tuple([(letters[token.part] + str(rank), each[1]) for rank, each in enumerate(token.ranked)]), token.rank)
        for token in said
    ]
    reader = open_stream("chat", choices=1, strip_usage=False, evidence=EvidenceReader(Evidence(tokens=kind)))
    reader.feed(b"".join(stream(engine, "chat", distinct, 1)))
    found = read_evidence("chat", whole(engine, "chat", [distinct], 1), Evidence(tokens=kind))[0]
    assert found == reader.scores() == score([token.logprob for token in distinct if token.part == kind])


def test_parts_are_found_in_their_order() -> None:
    assert located([b"ab", b"c", b"ab", b"d"], [b"c", b"abd"]) == [(1, 2), (2, 4)]
    assert located([b"ab", b"c"], [b"c", b"ab"]) is None
    assert located([b"ab", b"c", b"de"], [b"bcd"]) == [(0, 3)]
    assert located([], [b"x"]) is None
