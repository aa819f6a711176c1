"""The gateway in front of a real vLLM."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import jsonschema
import openai
import pytest
import pytest_asyncio

from gateway.embedded import corpus
from tests.e2e.gateway import Gateway, chat, events, eventually, gateway
from tests.engines.asking import (
    ADAPTER,
    ENDLESS,
    LABEL,
    LABEL_FORMAT,
    LABEL_SCHEMA,
    NAMED_TOOL,
    TICKET,
    TOOL,
    client_of,
    messages,
    no_padding,
)
from tests.engines.processes import Engine

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

POLICY = """
version: 1
backends:
  - {{name: base, kind: vllm, replicas: ["{url}"], model: specialist, evidence: logprobs}}
  - {{name: adapter, kind: vllm, replicas: ["{url}"], model: {adapter}, evidence: logprobs}}
  - {{name: misspelt, kind: vllm, replicas: ["{url}"], model: specialits}}
routes:
  - {{name: chat, matches: [{{models: [chat]}}], backend: base}}
  - {{name: queues, matches: [{{models: [queues]}}], backend: adapter}}
  - {{name: misspelt, matches: [{{models: [misspelt]}}], backend: misspelt}}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(vllm: Engine) -> AsyncIterator[Gateway]:
    # The misspelt backend never becomes ready: the gateway waits for it once, and then serves.
    async with gateway(POLICY.format(url=vllm.url, adapter=ADAPTER)) as started:
        yield started


@pytest.fixture
def client(running: Gateway) -> openai.AsyncOpenAI:
    return client_of(running)


async def replica_of(running: Gateway, backend: str) -> dict[str, Any]:
    found = {shown["backend"]: shown["replicas"][0] for shown in (await running.ask_admin("/backends"))["backends"]}
    replica = found[backend]
    assert isinstance(replica, dict)
    return replica


async def test_its_probe_says_ready_and_finds_the_evidence(running: Gateway) -> None:
    for backend in ("base", "adapter"):
        replica = await replica_of(running, backend)
        assert (replica["ready"], replica["evidence_ok"], replica["message"]) == (True, True, "")


async def test_a_model_that_it_does_not_have_is_the_operators_fault_and_not_the_clients(running: Gateway) -> None:
    replica = await replica_of(running, "misspelt")
    assert not replica["ready"]
    assert "404" in replica["message"]
    async with running.client() as http:
        answer = await http.post("/v1/chat/completions", json=chat("misspelt"))
        nobody = await http.post("/v1/chat/completions", json=chat("nope"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "backend_unavailable")
    assert (nobody.status_code, nobody.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_chat_whole_and_streamed_says_the_same(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "chat", "messages": messages(), "temperature": 0, "max_tokens": 20, "extra_body": ENDLESS}
    whole = await client.chat.completions.create(**asked)
    chunks = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
    assert len(chunks) > 10
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert {chunk.model for chunk in chunks} == {whole.model} == {"specialist"}
    assert all(chunk.usage is None for chunk in chunks)


async def test_the_record_of_a_stream_has_the_tokens_that_the_client_did_not_ask_for(running: Gateway) -> None:
    async with running.client() as http:
        whole = await http.post("/v1/chat/completions", json=chat(content=TICKET, temperature=0))
        streamed = await http.post("/v1/chat/completions", json=chat(content=TICKET, temperature=0, stream=True))
    assert whole.json()["choices"][0]["message"]["content"] == LABEL
    assert not any(isinstance(event, dict) and event.get("usage") for event in events(streamed.content))
    usage = whole.json()["usage"]
    for answer in (whole, streamed):
        (call,) = (await running.exchange(answer.headers["x-headgate-exchange-id"]))["calls"]
        assert (call["input_tokens"], call["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])


async def test_a_client_that_asks_for_usage_gets_it(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="chat", messages=messages(), temperature=0, stream=True, stream_options={"include_usage": True}
    )
    *_, last = [chunk async for chunk in stream]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 2


async def test_completions_whole_and_streamed(client: openai.AsyncOpenAI) -> None:
    whole = await client.completions.create(model="chat", prompt=TICKET, temperature=0, max_tokens=6, logprobs=2)
    stream = await client.completions.create(model="chat", prompt=TICKET, temperature=0, max_tokens=6, stream=True)
    parts = [choice.text async for chunk in stream for choice in chunk.choices]
    assert "".join(parts) == whole.choices[0].text
    assert whole.choices[0].logprobs is not None
    assert len(whole.choices[0].logprobs.token_logprobs or ()) > 0


async def test_a_named_tool_is_called_by_its_schema_whole_and_streamed(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "chat", "messages": messages(), "temperature": 0, "max_tokens": 100}
    asked |= {"tools": [TOOL], "tool_choice": NAMED_TOOL, "logit_bias": no_padding()}
    whole = await client.chat.completions.create(**asked)
    (call,) = whole.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "route"
    jsonschema.validate(json.loads(call.function.arguments), LABEL_SCHEMA)

    chunks = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
    deltas = [call.function for chunk in chunks for call in chunk.choices[0].delta.tool_calls or () if call.function]
    assert [delta.name for delta in deltas if delta.name] == ["route"]
    assert json.loads("".join(delta.arguments or "" for delta in deltas)) == json.loads(call.function.arguments)


async def test_a_schema_holds_whole_and_streamed(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "chat", "messages": messages(), "temperature": 0, "max_tokens": 60}
    asked |= {"response_format": LABEL_FORMAT, "logit_bias": no_padding()}
    whole = await client.chat.completions.create(**asked)
    text = whole.choices[0].message.content or ""
    jsonschema.validate(json.loads(text), LABEL_SCHEMA)
    stream = await client.chat.completions.create(**asked, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == text


async def test_two_choices_whole_and_streamed(running: Gateway, client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "chat", "messages": messages(), "n": 2, "temperature": 1, "seed": 5}
    whole = await client.chat.completions.create(**asked)
    assert [choice.index for choice in whole.choices] == [0, 1]
    async with client.chat.completions.with_streaming_response.create(**asked, stream=True) as response:
        chunks = [event for event in events(await response.read()) if isinstance(event, dict)]
    ended = sorted(choice["index"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"])
    assert ended == [0, 1]
    (call,) = (await running.exchange(response.headers["x-headgate-exchange-id"]))["calls"]
    assert (call["result"], call["finish_reasons"]) == ("ok", ["stop", "stop"])


@pytest.mark.parametrize("top", [None, 0, 3])
async def test_logprobs_are_what_the_client_asked_for(client: openai.AsyncOpenAI, top: int | None) -> None:
    asked: dict[str, Any] = {"model": "chat", "messages": messages(), "temperature": 0}
    asked |= {} if top is None else {"logprobs": True, "top_logprobs": top}
    whole = await client.chat.completions.create(**asked)
    chunks = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
    streamed = [entry for chunk in chunks for entry in (chunk.choices[0].logprobs and chunk.choices[0].logprobs.content) or ()]
    entries = (whole.choices[0].logprobs and whole.choices[0].logprobs.content) or []
    assert [entry.token for entry in entries] == [entry.token for entry in streamed]
    if top is None:
        assert not entries
    else:
        assert entries[0].token == LABEL
        assert all(entry.logprob <= 0 and len(entry.top_logprobs) == top for entry in (*entries, *streamed))


async def test_responses_and_messages_go_to_its_own_endpoints(running: Gateway) -> None:
    async with running.client() as http:
        response = await http.post("/v1/responses", json={"model": "chat", "input": TICKET, "temperature": 0})
        message = await http.post("/v1/messages", json={"model": "chat", "max_tokens": 8, "messages": messages(), "temperature": 0})
        streams = [
            await http.post("/v1/responses", json={"model": "chat", "input": TICKET, "temperature": 0, "stream": True}),
            await http.post(
                "/v1/messages", json={"model": "chat", "max_tokens": 8, "messages": messages(), "temperature": 0, "stream": True}
            ),
        ]
    assert response.json()["output"][0]["content"][0]["text"] == LABEL
    assert message.json()["content"] == [{"type": "text", "text": LABEL}]
    assert b"event: response.completed" in streams[0].content
    assert b"event: message_stop" in streams[1].content
    for answer in (response, message, *streams):
        record = await running.exchange(answer.headers["x-headgate-exchange-id"])
        (call,) = record["calls"]
        assert (record["code"], call["result"], call["output_tokens"]) == (200, "ok", 2), record["endpoint"]


async def test_an_endpoint_that_it_does_not_offer(running: Gateway) -> None:
    async with running.client() as http:
        answer = await http.post("/v1/embeddings", json={"model": "chat", "input": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "endpoint_not_offered")


async def test_its_own_refusal_reaches_the_client(running: Gateway) -> None:
    async with running.client() as http:
        answer = await http.post("/v1/chat/completions", json=chat(logprobs=True, top_logprobs=21))
        too_long = await http.post("/v1/chat/completions", json=chat(content="late parcel " * 3000))
    assert answer.status_code == too_long.status_code == 400
    assert "20" in answer.json()["error"]["message"]
    assert "context" in too_long.json()["error"]["message"]


async def test_what_would_reach_into_the_server_is_refused_by_the_gateway(running: Gateway) -> None:
    async with running.client() as http:
        for field in ("priority", "chat_template", "guided_json", "cache_salt"):
            answer = await http.post("/v1/chat/completions", json=chat() | {field: 1})
            assert (answer.status_code, field in answer.json()["error"]["message"]) == (400, True)


async def test_an_adapter_is_a_model_with_a_name(client: openai.AsyncOpenAI) -> None:
    asked = [example.prompt for example in corpus.evaluation("queues", 8)]
    queues = [
        (await client.chat.completions.create(model="queues", messages=messages(prompt), temperature=0)).choices[0].message.content
        for prompt in asked
    ]
    assert sum(queue in corpus.QUEUES.values() for queue in queues) >= 5, queues
    base = await client.chat.completions.create(model="chat", messages=messages(), temperature=0)
    assert base.choices[0].message.content == LABEL


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_leaves_stops_the_generation(running: Gateway, vllm: Engine, streamed: bool) -> None:
    async def at_work() -> bool:
        return await asyncio.to_thread(vllm.metric, "vllm:num_requests_running") >= 1

    async def idle() -> bool:
        return not await at_work()

    async def generated() -> float:
        return await asyncio.to_thread(vllm.metric, "vllm:generation_tokens_total")

    async def ask() -> None:
        async with running.client() as http:
            await http.post("/v1/chat/completions", json=body)

    body = chat(content=TICKET, max_tokens=1900, stream=streamed, n=8, **ENDLESS)
    seen = False
    for _ in range(5):
        await eventually(idle, 60)  # a probe may be at work, or what a try before this one began
        before = await generated()
        task = asyncio.create_task(ask())
        while not task.done() and not (seen := await at_work()):
            pass
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await eventually(idle, 60)
        if await generated() - before < 8 * 1900:  # on a busy machine it may have ended before anybody left
            return
    assert not seen, "whoever left, all was generated"
    pytest.skip("the engine is done before its metrics say that it is at work")
