from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.ping import TOP_LOGPROBS, evidence_problem, is_answer, request_body


def chat(*entries: tuple[float, list[float]]) -> bytes:
    content = [{"token": "x", "logprob": own, "top_logprobs": [{"token": "y", "logprob": top} for top in tops]} for own, tops in entries]
    return msgspec.json.encode({"choices": [{"message": {}, "logprobs": {"content": content}}]})


def completion(own: list[float | None], tops: list[dict[str, float] | None] | None) -> bytes:
    return msgspec.json.encode({"choices": [{"text": "x", "logprobs": {"token_logprobs": own, "top_logprobs": tops}}]})


LOGPROBS = chat((-0.1, [-0.1, -2.9, -4.0]), (0.0, [0.0, -9999.0]))
POSITIVE = chat((12.5, [12.5, 3.0]))
ABOVE_ONE = chat((-0.2, [-0.2, -0.3, -0.4]))


@pytest.mark.parametrize(
    ("declared", "answer", "problem"),
    [
        ("none", b"not even JSON", None),
        ("logprobs", LOGPROBS, None),
        ("logprobs", POSITIVE, "these are logits"),
        ("logprobs", ABOVE_ONE, "these are logits"),
        ("logits", POSITIVE, None),
        ("logits", ABOVE_ONE, None),
        ("logits", LOGPROBS, "these are log-probabilities"),
        ("logits", chat((900.0, [900.0, 3.0])), None),
        ("logprobs", chat((-0.1, [])), None),
        ("logprobs", chat(), "no logprobs"),
        ("logprobs", b'{"choices":[{"message":{}}]}', "no logprobs"),
        ("logprobs", b'{"choices":[{"logprobs":null}]}', "no logprobs"),
        ("logprobs", b'{"choices":[{"logprobs":{"content":"odd"}}]}', "no logprobs"),
        ("logprobs", b'{"data":[{"embedding":[0.1]}]}', "no logprobs"),
        ("logprobs", completion([None, -0.5], [None, {"a": -0.5, "b": -3.0}]), None),
        ("logprobs", completion([-0.5], None), None),
        ("logits", completion([4.0], [{"a": 4.0}]), None),
        ("logprobs", completion([4.0], [{"a": 4.0}]), "these are logits"),
    ],
)
def test_evidence(declared: Any, answer: bytes, problem: str | None) -> None:
    found = evidence_problem(declared, answer)
    assert (found is None) if problem is None else (found is not None and problem in found)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=40), st.integers(1, 20))
def test_log_probabilities_are_never_taken_for_logits(logits: list[float], kept: int) -> None:
    total = math.log(math.fsum(map(math.exp, logits)))
    tops = sorted((value - total for value in logits), reverse=True)[:kept]
    assert evidence_problem("logprobs", chat((tops[0], tops))) is None


@pytest.mark.parametrize(
    ("endpoint", "answer", "good"),
    [
        ("chat", b'{"choices":[{}]}', True),
        ("chat", b'{"choices":[]}', False),
        ("chat", b'{"error":{"message":"EngineDeadError"}}', False),
        ("chat", b"<html>", False),
        ("chat", b"[]", False),
        ("embeddings", b'{"data":[{"embedding":[]}]}', True),
        ("embeddings", b'{"choices":[{}]}', False),
    ],
)
def test_is_answer(endpoint: Any, answer: bytes, good: bool) -> None:
    assert is_answer(endpoint, answer) == good


def test_requests() -> None:
    def body(endpoint: Any, *, evidence: bool) -> Any:
        return msgspec.json.decode(request_body(endpoint, "m", "ping", 3, evidence=evidence))

    assert body("chat", evidence=True) == {
        "model": "m",
        "messages": [{"role": "user", "content": "ping"}],
        "max_tokens": 3,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": TOP_LOGPROBS,
    }
    assert "logprobs" not in body("chat", evidence=False)
    assert body("completions", evidence=True) == {
        "model": "m",
        "prompt": "ping",
        "max_tokens": 3,
        "temperature": 0,
        "logprobs": TOP_LOGPROBS,
    }
    assert body("embeddings", evidence=True) == {"model": "m", "input": "ping"}
