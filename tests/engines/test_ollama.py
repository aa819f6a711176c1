"""The gateway in front of Ollama, and what it mends there: what Ollama would ignore or break off without a word, it says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.e2e.gateway import Gateway, chat, events, gateway
from tests.engines.asking import ENDLESS, LABEL, TICKET, client_of, messages
from tests.engines.ollama_standin import Ollama, ollama
from tests.engines.processes import Engine

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

POLICY = """
version: 1
backends:
  - {{name: laptop, kind: ollama, replicas: ["{ollama}"], model: specialist, evidence: logprobs, readiness: {{prompt: hello}}}}
  - {{name: spare, kind: openai, replicas: ["{spare}"], model: specialist}}
routes:
  - {{name: chat, matches: [{{models: [chat]}}], backend: laptop}}
  - {{name: safe, matches: [{{models: [safe]}}], failover: [laptop, spare]}}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def laptop(llama_server: Engine) -> AsyncIterator[Ollama]:
    async with ollama(llama_server.url) as standin:
        yield standin


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(laptop: Ollama, llama_server: Engine) -> AsyncIterator[Gateway]:
    async with gateway(POLICY.format(ollama=laptop.url, spare=llama_server.url)) as started:
        yield started


@pytest.fixture
def client(running: Gateway) -> openai.AsyncOpenAI:
    return client_of(running)


async def test_its_probe_says_ready_and_finds_the_evidence(running: Gateway) -> None:
    replica = (await running.ask_admin("/backends"))["backends"][0]["replicas"][0]
    assert (replica["ready"], replica["evidence_ok"], replica["message"]) == (True, True, "")


async def test_a_chat_whole_and_streamed_says_the_same(running: Gateway, client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model="chat", messages=messages(), temperature=0)
    stream = await client.chat.completions.create(model="chat", messages=messages(), temperature=0, stream=True)
    chunks = [chunk async for chunk in stream]
    assert whole.choices[0].message.content == LABEL
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == LABEL
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


async def test_the_record_of_a_stream_has_the_tokens_that_the_client_did_not_ask_for(running: Gateway) -> None:
    async with running.client() as http:
        streamed = await http.post("/v1/chat/completions", json=chat(content=TICKET, temperature=0, stream=True))
    (call,) = (await running.exchange(streamed.headers["x-headgate-exchange-id"]))["calls"]
    assert call["output_tokens"] == 2, "the label and the end of the sequence"
    assert call["input_tokens"] > 10


@pytest.mark.parametrize(
    ("field", "value"),
    [("n", 2), ("tool_choice", "required"), ("logit_bias", {"5": 1}), ("max_completion_tokens", 5)],
)
async def test_what_it_would_ignore_without_a_word_is_refused_by_name(running: Gateway, field: str, value: object) -> None:
    async with running.client() as http:
        answer = await http.post("/v1/chat/completions", json=chat() | {field: value})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert field in error["message"]
    assert "laptop" in error["message"]


@pytest.mark.parametrize("field", ["keep_alive", "options", "template"])
async def test_what_would_reach_into_the_server_is_refused(running: Gateway, field: str) -> None:
    async with running.client() as http:
        answer = await http.post("/v1/chat/completions", json=chat() | {field: 0})
    assert answer.status_code == 400
    assert field in answer.json()["error"]["message"]


async def test_its_own_refusal_reaches_the_client(running: Gateway) -> None:
    async with running.client() as http:
        answer = await http.post("/v1/chat/completions", json=chat(logprobs=True, top_logprobs=21))
    assert answer.status_code == 400
    assert "top_logprobs must be between 0 and 20" in answer.json()["error"]["message"]


async def test_a_runner_that_dies_after_the_commit_is_an_error_in_the_stream(running: Gateway, laptop: Ollama) -> None:
    laptop.dies_after = 3
    async with running.client() as http:
        answer = await http.post("/v1/chat/completions", json=chat(content=TICKET, stream=True, max_tokens=50, **ENDLESS))
    *chunks, error, done = events(answer.content)
    assert len(chunks) >= 3
    assert (error["error"]["type"], error["error"]["code"]) == ("server_error", "backend_error")
    assert done == "[DONE]"
    record = await running.exchange(answer.headers["x-headgate-exchange-id"])
    assert (record["code"], record["calls"][0]["result"]) == (502, "truncated")


async def test_a_runner_that_dies_after_the_commit_is_an_exception_of_openais_client(laptop: Ollama, client: openai.AsyncOpenAI) -> None:
    laptop.dies_after = 3
    asked: dict[str, Any] = {"model": "safe", "messages": messages(), "max_tokens": 50, "extra_body": ENDLESS}
    stream = await client.chat.completions.create(**asked, stream=True)
    with pytest.raises(openai.APIError, match="broke off in the middle of its answer"):
        async for _ in stream:
            pass


async def test_a_runner_that_dies_before_the_commit_fails_over(running: Gateway, laptop: Ollama) -> None:
    laptop.dies_after = 0
    async with running.client() as http:
        answer = await http.post("/v1/chat/completions", json=chat("safe", TICKET, stream=True, temperature=0))
    said = events(answer.content)
    assert (answer.headers["x-headgate-backend"], answer.headers["x-headgate-reason"]) == ("spare", "failover")
    assert said[-1] == "[DONE]"
    assert {event["model"] for event in said[:-1]} == {"specialist"}
    record = await running.exchange(answer.headers["x-headgate-exchange-id"])
    assert [call["result"] for call in record["calls"]] == ["truncated", "ok"]
