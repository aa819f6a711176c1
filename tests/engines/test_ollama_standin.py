"""The stand-in for Ollama answers what the real one was recorded to answer: the same status, the same fields, the same types."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.e2e.gateway import events
from tests.engines.ollama_standin import Ollama, ollama
from tests.engines.processes import Engine
from tests.gateway.protocol.recorded import FOLDER, body_of

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

ASKED: dict[str, Any] = {
    "model": "specialist",
    "messages": [{"role": "user", "content": "Route this ticket: Hi, I was charged twice. Please help."}],
    "temperature": 0,
    "max_tokens": 8,
}
PROMPT: dict[str, Any] = {"model": "specialist", "prompt": "Route this", "max_tokens": 3, "temperature": 0}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standin(llama_server: Engine) -> AsyncIterator[Ollama]:
    async with ollama(llama_server.url) as running:
        yield running


def shape(value: object) -> object:
    """What is left of a JSON value without its texts and numbers. Of a list, the shapes that occur."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        found: list[object] = []
        for each in value:
            if shape(each) not in found:
                found.append(shape(each))
        return found
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def runs(shapes: list[object]) -> list[object]:
    """The shapes of a stream's events, each repetition once."""
    return [each for i, each in enumerate(shapes) if i == 0 or each != shapes[i - 1]]


def recorded_status(name: str) -> int:
    return int((FOLDER / "ollama" / f"{name}.txt").read_bytes().split(b" ", 2)[1])


@pytest.mark.parametrize(
    ("name", "path", "body"),
    [
        ("chat", "/v1/chat/completions", ASKED),
        ("chat_length", "/v1/chat/completions", ASKED | {"max_tokens": 1}),
        ("chat_n2", "/v1/chat/completions", ASKED | {"n": 2}),
        ("chat_logprobs", "/v1/chat/completions", ASKED | {"logprobs": True, "top_logprobs": 3}),
        ("chat_logprobs_no_top", "/v1/chat/completions", ASKED | {"logprobs": True}),
        ("chat_top21", "/v1/chat/completions", ASKED | {"logprobs": True, "top_logprobs": 21}),
        ("chat_unknown_model", "/v1/chat/completions", ASKED | {"model": "nope"}),
        ("chat_unknown_model", "/v1/chat/completions", ASKED | {"model": "nope", "stream": True}),
        ("chat_no_messages", "/v1/chat/completions", {"model": "specialist"}),
        ("chat_bad_json", "/v1/chat/completions", "{bad"),
        ("completions", "/v1/completions", PROMPT | {"logprobs": 2}),
        ("models", "/v1/models", None),
        ("model", "/v1/models/specialist", None),
        ("model_unknown", "/v1/models/nope", None),
        ("notfound", "/v1/nothing", None),
        ("root", "/", None),
    ],
)
async def test_it_answers_as_recorded(standin: Ollama, name: str, path: str, body: Any) -> None:
    async with httpx.AsyncClient(base_url=standin.url, timeout=30) as client:
        if body is None:
            answer = await client.get(path)
        else:
            answer = await client.post(path, content=body if isinstance(body, str) else json.dumps(body))
    recorded = body_of("ollama", name)
    assert answer.status_code == recorded_status(name)
    if recorded.startswith(b"{"):
        assert shape(answer.json()) == shape(json.loads(recorded))
        if "error" in answer.json():
            assert answer.json() == json.loads(recorded)
    else:
        assert answer.content == recorded


@pytest.mark.parametrize(
    ("name", "path", "body"),
    [
        ("chat_stream", "/v1/chat/completions", ASKED | {"stream": True}),
        ("chat_stream_usage_logprobs", "/v1/chat/completions", ASKED | USAGE | {"logprobs": True, "top_logprobs": 2}),
        ("completions_stream", "/v1/completions", PROMPT | USAGE),
    ],
)
async def test_it_streams_as_recorded(standin: Ollama, name: str, path: str, body: Any) -> None:
    async with httpx.AsyncClient(base_url=standin.url, timeout=30) as client:
        answer = await client.post(path, json=body)
    assert answer.headers["content-type"] == "text/event-stream"
    recorded = events(body_of("ollama", name))
    assert runs([shape(event) for event in events(answer.content)]) == runs([shape(event) for event in recorded])
    assert recorded[-1] == events(answer.content)[-1] == "[DONE]"


async def test_a_dead_runner_is_a_chunk_without_a_model_and_then_nothing(standin: Ollama) -> None:
    standin.dies_after = 1
    async with httpx.AsyncClient(base_url=standin.url, timeout=30) as client:
        answer = await client.post("/v1/chat/completions", json=ASKED | {"stream": True, "ignore_eos": True})
    said = events(answer.content)
    assert answer.status_code == 200
    assert [event["model"] for event in said] == ["specialist", ""]
    assert all(choice["finish_reason"] is None for event in said for choice in event["choices"])
