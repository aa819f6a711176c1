from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.protocol.reply import ReplyFacts, read_reply
from gateway.protocol.usage import Usage
from policies.plan import Endpoint
from tests.gateway.protocol.recorded import ENGINES, body_of

REPLIES: tuple[tuple[Endpoint, str], ...] = (("chat", "stop"), ("responses", "completed"), ("messages", "end_turn"))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("endpoint", "reason"), REPLIES)
def test_a_recorded_reply(engine: str, endpoint: Endpoint, reason: str) -> None:
    assert read_reply(endpoint, body_of(engine, endpoint)) == ReplyFacts(Usage(27, 2), (reason,), "specialist")


@pytest.mark.parametrize(("engine", "choices"), [("vllm", 2), ("llama-server", 2), ("ollama", 1)])
def test_each_choice_has_its_reason(engine: str, choices: int) -> None:
    assert read_reply("chat", body_of(engine, "chat_n2")).finish_reasons == ("stop",) * choices


@pytest.mark.parametrize(
    ("endpoint", "reply", "facts"),
    [
        ("embeddings", {"data": [{"embedding": [0.5]}], "model": "m", "usage": {"prompt_tokens": 4}}, ReplyFacts(Usage(4, 0), (), "m")),
        ("completions", {"choices": [{"text": "x", "finish_reason": None}], "usage": None}, ReplyFacts()),
        ("responses", {"output": [], "status": "incomplete", "incomplete_details": {"reason": "x"}}, ReplyFacts(None, ("x",))),
        ("messages", {"content": [], "stop_reason": "max_tokens", "usage": {}}, ReplyFacts(None, ("max_tokens",))),
    ],
)
def test_what_a_reply_says(endpoint: Endpoint, reply: Any, facts: ReplyFacts) -> None:
    assert read_reply(endpoint, json.dumps(reply).encode()) == facts


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>502</html>",
        b"[]",
        b"null",
        b"{}",
        b'{"choices":[]}',
        b'{"choices":null}',
        b'{"choices":5}',
        b'{"choices":[{"finish_reason":"stop"}]',
        b'{"data":[]}',
        b"\xff",
        b"[" * 5000,
    ],
)
def test_a_reply_that_is_none_is_a_problem(body: bytes) -> None:
    problem = read_reply("chat", body).problem
    assert problem is not None
    assert len(problem) <= 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"died","code":500}}',
        b'{"error":"died"}',
        b'{"object":"error","message":"died","code":500}',
        b'{"type":"error","error":{"message":"died"}}',
        b'{"status":"failed","output":[],"error":{"message":"died"}}',
    ],
)
@pytest.mark.parametrize("endpoint", ["chat", "responses", "messages", "embeddings"])
def test_an_error_with_status_200_is_a_problem(endpoint: Endpoint, body: bytes) -> None:
    assert read_reply(endpoint, body).problem == "the reply is an error: died"
