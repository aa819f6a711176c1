"""The gateway in front of a real llama-server."""

from __future__ import annotations

import asyncio
import json
import operator
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from gateway.embedded.tokenizer import IM_END, TOOL_CALL
from tests.e2e.gateway import Gateway, chat, events, eventually, gateway, said
from tests.engines.asking import ENDLESS, LABEL, LABEL_FORMAT, TICKET, TOOL, client_of, messages, no_padding
from tests.engines.processes import Engine

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

POLICY = """
version: 1
backends:
  - {{name: small, kind: openai, replicas: ["{chat}"], model: specialist, evidence: logprobs}}
  - {{name: vectors, kind: openai, replicas: ["{embeddings}"], model: specialist}}
routes:
  - {{name: chat, matches: [{{models: [chat]}}], backend: small}}
  - {{name: vectors, matches: [{{models: [vectors]}}], backend: vectors}}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(llama_server: Engine, llama_embeddings: Engine) -> AsyncIterator[Gateway]:
    async with gateway(POLICY.format(chat=llama_server.url, embeddings=llama_embeddings.url)) as started:
        yield started


@pytest.fixture
def client(running: Gateway) -> openai.AsyncOpenAI:
    return client_of(running)


async def test_its_probe_says_ready_and_finds_the_evidence(running: Gateway) -> None:
    for backend in (await running.ask_admin("/backends"))["backends"]:
        (replica,) = backend["replicas"]
        assert (replica["ready"], replica["evidence_ok"], replica["message"]) == (True, True, "")


async def test_a_chat_whole_and_streamed_says_the_same(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "chat", "messages": messages(), "temperature": 0, "max_tokens": 20, "extra_body": ENDLESS}
    whole = await client.chat.completions.create(**asked)
    stream = await client.chat.completions.create(**asked, stream=True)
    chunks = [chunk async for chunk in stream]
    assert len(chunks) > 5
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert {chunk.model for chunk in chunks} == {whole.model} == {"specialist"}
    assert all(chunk.usage is None for chunk in chunks)


async def test_the_record_of_a_stream_has_the_tokens_that_the_client_did_not_ask_for(running: Gateway) -> None:
    async with running.client() as http:
        whole = await http.post("/v1/chat/completions", json=chat(content=TICKET, temperature=0))
        streamed = await http.post("/v1/chat/completions", json=chat(content=TICKET, temperature=0, stream=True))
    assert said(streamed.content) == whole.json()["choices"][0]["message"]["content"] == LABEL
    assert events(streamed.content)[-1] == "[DONE]"
    assert not any(isinstance(event, dict) and event.get("usage") for event in events(streamed.content))
    usage = whole.json()["usage"]
    for answer in (whole, streamed):
        (call,) = (await running.exchange(answer.headers["x-headgate-exchange-id"]))["calls"]
        assert (call["input_tokens"], call["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
        assert call["finish_reasons"] == ["stop"]


async def test_completions_whole_and_streamed(client: openai.AsyncOpenAI) -> None:
    whole = await client.completions.create(model="chat", prompt=TICKET, temperature=0, max_tokens=6)
    stream = await client.completions.create(model="chat", prompt=TICKET, temperature=0, max_tokens=6, stream=True)
    parts = [chunk async for chunk in stream]
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 0
    assert "".join(choice.text for part in parts for choice in part.choices) == whole.choices[0].text


async def test_embeddings(client: openai.AsyncOpenAI) -> None:
    texts = ["my parcel is late", "my parcel has not come", "I forgot my password"]
    vectors = [entry.embedding for entry in (await client.embeddings.create(model="vectors", input=texts)).data]
    assert {len(vector) for vector in vectors} == {128}
    late, missing, password = vectors
    assert sum(map(operator.mul, late, missing)) > sum(map(operator.mul, late, password))


async def test_embeddings_of_a_server_without_them_are_an_error_that_names_the_backend(running: Gateway) -> None:
    async with running.client() as http:
        answer = await http.post("/v1/embeddings", json={"model": "chat", "input": "x"})
    assert answer.status_code >= 400
    assert "small" in answer.json()["error"]["message"]


async def test_logprobs_are_what_the_client_asked_for_and_its_own_end_of_sequence_quirk_shows(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model="chat", messages=messages(), temperature=0, logprobs=True, top_logprobs=3)
    stream = await client.chat.completions.create(
        model="chat", messages=messages(), temperature=0, logprobs=True, top_logprobs=3, stream=True
    )
    assert whole.choices[0].logprobs is not None
    entries = whole.choices[0].logprobs.content or []
    streamed = [entry async for chunk in stream for entry in (chunk.choices[0].logprobs and chunk.choices[0].logprobs.content) or []]
    assert entries[0].token == streamed[0].token == LABEL
    assert [len(entry.top_logprobs) for entry in entries] == [3] * len(entries)
    assert entries[0].logprob == pytest.approx(streamed[0].logprob, abs=1e-4)
    assert len(entries) == len(streamed) + 1, "the entry of the end of the sequence comes only with whole replies"


async def test_a_schema_holds(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "chat", "messages": messages(), "temperature": 0}
    asked |= {"response_format": LABEL_FORMAT, "logit_bias": no_padding()}
    whole = await client.chat.completions.create(**asked)
    assert json.loads(whole.choices[0].message.content or "").keys() == {"label"}


async def test_a_tool_is_called_whole_and_streamed(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "chat", "messages": messages(), "temperature": 0, "max_tokens": 60, "tools": [TOOL]}
    # `required` lets text come first, and this model would never end it; nor end after one call.
    asked |= {"tool_choice": "required", "parallel_tool_calls": False, "logit_bias": no_padding() | {str(TOOL_CALL): 50, str(IM_END): 60}}
    whole = await client.chat.completions.create(**asked)
    (call,) = whole.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "route"
    assert json.loads(call.function.arguments).keys() == {"label"}
    assert whole.choices[0].finish_reason == "tool_calls"

    chunks = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
    deltas = [call.function for chunk in chunks for call in chunk.choices[0].delta.tool_calls or () if call.function]
    assert [delta.name for delta in deltas if delta.name] == ["route"]
    assert "".join(delta.arguments or "" for delta in deltas) == call.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_a_prompt_that_is_too_long_is_the_clients_error(running: Gateway) -> None:
    async with running.client() as http:
        answer = await http.post("/v1/chat/completions", json=chat(content="late parcel " * 4000))
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert "context" in answer.json()["error"]["message"]


async def test_a_client_that_leaves_a_stream_stops_the_generation(
    running: Gateway, llama_server: Engine, client: openai.AsyncOpenAI
) -> None:
    stream = await client.chat.completions.create(model="chat", messages=messages(), max_tokens=1_000_000, stream=True, extra_body=ENDLESS)
    await anext(aiter(stream))

    async def generating() -> bool:
        return await asyncio.to_thread(llama_server.metric, "llamacpp:requests_processing") == 1

    await eventually(generating)
    await stream.close()

    async def idle() -> bool:
        return not await generating()

    await eventually(idle, 5)
    await running.metric('headgate_client_disconnects_total{phase="after_commit"}', 1)
