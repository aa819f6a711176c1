"""The openai SDK for Python against a gateway: what people call it with, and the exceptions that they catch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any, TypeVar

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from tests.e2e.site import KEYS, Site, site
from tests.standin import Conversation, Script, chunk, completion, fails, speaks

POLICY = """
version: 1
server: {body_max: 64KiB}
backends:
  - name: small
    kind: openai
    replicas: ["SMALL"]
    model: tiny
    timeouts: {first_token: 1s, total: 2s}
    retries: {attempts: 1}
    breaker: {failures: 1000}
    readiness: {every: 1h}
  - {name: big, kind: openai, replicas: ["BIG"], model: huge}
routes:
  - {name: main, matches: [{models: [chat]}], backend: small}
  - {name: private, matches: [{models: [private]}], backend: small}
keys:
  - {name: acme, sha256: "${env:ACME_SHA256}", routes: [main]}
"""
USER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
T = TypeVar("T")
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Site]:
    async with site(POLICY) as found:
        yield found


@pytest.fixture(autouse=True)
def fresh(running: Site) -> None:
    running.play()


@pytest_asyncio.fixture(loop_scope="module")
async def client(running: Site) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{running.gateway.data}/v1", api_key=KEYS["ACME"], max_retries=0, timeout=20) as found:
        yield found


async def blocking(running: Site, ask: Callable[[OpenAI], T]) -> T:
    """The synchronous client, on a thread."""

    def call() -> T:
        with OpenAI(base_url=f"{running.gateway.data}/v1", api_key=KEYS["ACME"], max_retries=0, timeout=20) as client:
            return ask(client)

    return await asyncio.to_thread(call)


async def collect(stream: AsyncIterable[Any], seen: list[Any]) -> None:
    async for each in stream:
        seen.append(each)


def answers(value: object) -> Script:
    async def script(c: Conversation) -> None:
        await c.json(value)

    return script


def streams(*events: object, named: bool = False) -> Script:
    """Chunks and `[DONE]`; `named`: events with their types, as responses have them."""

    async def script(c: Conversation) -> None:
        await c.start_stream()
        for event in events:
            if named:
                assert isinstance(event, dict)
                await c.chunk(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
            else:
                await c.event(event)
        await c.end_stream(done=not named)

    return script


# Chat.


async def test_chat(running: Site, client: AsyncOpenAI) -> None:
    found = await client.chat.completions.create(model="chat", messages=USER)
    assert found.choices[0].message.content == "hello from small"
    assert found.usage is not None
    assert found.usage.total_tokens == 10
    assert found.model == "tiny"
    again = await blocking(running, lambda each: each.chat.completions.create(model="chat", messages=USER))
    assert again.choices[0].message.content == "hello from small"


async def test_chat_raw_response_shows_the_gateways_headers(client: AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(model="chat", messages=USER)
    assert raw.headers["x-headgate-backend"] == "small"
    assert raw.request_id == raw.headers["x-request-id"]


async def test_chat_streamed(running: Site, client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="chat", messages=USER, stream=True)
    parts = [part async for part in stream]
    assert "".join(part.choices[0].delta.content or "" for part in parts).split() == ["hello", "from", "small"]
    assert parts[-1].choices[0].finish_reason == "stop"
    assert all(part.usage is None for part in parts)

    def ask(each: OpenAI) -> list[str | None]:
        return [part.choices[0].delta.content for part in each.chat.completions.create(model="chat", messages=USER, stream=True)]

    assert "".join(text or "" for text in await blocking(running, ask)).split() == ["hello", "from", "small"]


async def test_usage_of_a_stream_for_those_who_ask(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="chat", messages=USER, stream=True, stream_options={"include_usage": True})
    last = [part async for part in stream][-1]
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (7, 3)


async def test_the_streams_of_the_stream_helper(running: Site, client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="chat", messages=USER) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert (final.choices[0].message.content or "").split() == ["hello", "from", "small"]

    def ask(each: OpenAI) -> str | None:
        with each.chat.completions.stream(model="chat", messages=USER) as stream:
            return stream.get_final_completion().choices[0].message.content

    assert (await blocking(running, ask) or "").split() == ["hello", "from", "small"]


TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CHOICE: Any = {"type": "function", "function": {"name": "weather"}}
ARGUMENTS = '{"city": "Zürich"}'


def tool_call(**function: str) -> dict[str, Any]:
    return {"index": 0, "id": "call_1", "type": "function", "function": function}


def tool_chunk(call: dict[str, Any] | None, finish: str | None = None) -> dict[str, Any]:
    found = chunk(finish=finish)
    if call is not None:
        found["choices"][0]["delta"] = {"tool_calls": [call]}
    return found


async def test_tools(running: Site, client: AsyncOpenAI) -> None:
    value = completion()
    message = {"role": "assistant", "content": None, "tool_calls": [tool_call(name="weather", arguments=ARGUMENTS)]}
    value["choices"][0] |= {"message": message, "finish_reason": "tool_calls"}
    running.play(small=answers(value))
    found = await client.chat.completions.create(model="chat", messages=USER, tools=[TOOL], tool_choice=CHOICE)
    (call,) = found.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Zürich"})
    assert found.choices[0].finish_reason == "tool_calls"
    assert running.small.asked[0].json["tools"] == [TOOL]
    assert running.small.asked[0].json["tool_choice"] == CHOICE


@pytest.mark.parametrize("pieces", [1, len(ARGUMENTS)])
async def test_tools_streamed(running: Site, client: AsyncOpenAI, pieces: int) -> None:
    """Arguments whole, as Ollama sends them, and in pieces, as vLLM does."""
    size = len(ARGUMENTS) // pieces
    cut = [ARGUMENTS[at : at + size] for at in range(0, len(ARGUMENTS), size)]
    first = tool_call(name="weather", arguments=cut[0])
    more = [{"index": 0, "function": {"arguments": piece}} for piece in cut[1:]]
    running.play(small=streams(*(tool_chunk(each) for each in [first, *more]), tool_chunk(None, "tool_calls")))
    async with client.chat.completions.stream(model="chat", messages=USER, tools=[TOOL], tool_choice=CHOICE) as stream:
        final = await stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert (call.id, call.function.name, json.loads(call.function.arguments)) == ("call_1", "weather", {"city": "Zürich"})


class Ticket(BaseModel):
    label: str
    urgent: bool


async def test_structured_output(running: Site, client: AsyncOpenAI) -> None:
    running.play(small=speaks('{"label":"billing","urgent":true}'))
    found = await client.chat.completions.parse(model="chat", messages=USER, response_format=Ticket)
    assert found.choices[0].message.parsed == Ticket(label="billing", urgent=True)
    asked = running.small.asked[0].json["response_format"]
    assert asked["type"] == "json_schema"
    assert set(asked["json_schema"]["schema"]["properties"]) == {"label", "urgent"}
    async with client.chat.completions.stream(model="chat", messages=USER, response_format=Ticket) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == Ticket(label="billing", urgent=True)


async def test_images_pass_through(running: Site, client: AsyncOpenAI) -> None:
    content: Any = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
    ]
    await client.chat.completions.create(model="chat", messages=[{"role": "user", "content": content}])
    assert running.small.asked[0].json["messages"][0]["content"] == content


async def test_two_choices(running: Site, client: AsyncOpenAI) -> None:
    def choice(index: int, content: str | None, finish: str | None) -> dict[str, Any]:
        found = chunk(content, finish)
        found["choices"][0]["index"] = index
        return found

    running.play(small=streams(choice(0, "a", None), choice(1, "x", None), choice(0, "b", "stop"), choice(1, "y", "stop")))
    stream = await client.chat.completions.create(model="chat", messages=USER, n=2, stream=True)
    texts = ["", ""]
    async for part in stream:
        texts[part.choices[0].index] += part.choices[0].delta.content or ""
    assert texts == ["ab", "xy"]
    value = completion("a")
    value["choices"].append({**value["choices"][0], "index": 1, "message": {"role": "assistant", "content": "x"}})
    running.play(small=answers(value))
    found = await client.chat.completions.create(model="chat", messages=USER, n=2)
    assert [each.message.content for each in found.choices] == ["a", "x"]


LOGPROBS = {"content": [{"token": "a", "logprob": -0.25, "bytes": [97], "top_logprobs": [{"token": "a", "logprob": -0.25, "bytes": [97]}]}]}


async def test_logprobs_as_they_were_asked_for(running: Site, client: AsyncOpenAI) -> None:
    value, part = completion("a"), chunk("a", "stop")
    value["choices"][0]["logprobs"] = part["choices"][0]["logprobs"] = LOGPROBS
    running.play(small=answers(value))
    found = await client.chat.completions.create(model="chat", messages=USER, logprobs=True, top_logprobs=1)
    assert found.choices[0].logprobs is not None
    assert (found.choices[0].logprobs.content or [])[0].top_logprobs[0].logprob == -0.25
    assert (running.small.asked[0].json["logprobs"], running.small.asked[0].json["top_logprobs"]) == (True, 1)
    running.play(small=streams(part))
    stream = await client.chat.completions.create(model="chat", messages=USER, logprobs=True, top_logprobs=1, stream=True)
    (received,) = [each async for each in stream]
    assert received.choices[0].logprobs is not None
    assert (received.choices[0].logprobs.content or [])[0].logprob == -0.25


# The other endpoints.


async def test_completions(running: Site, client: AsyncOpenAI) -> None:
    choice = {"index": 0, "text": "ab", "logprobs": None, "finish_reason": "stop"}
    value = {"id": "c", "object": "text_completion", "created": 1, "model": "tiny", "choices": [choice]}
    running.play(small=answers({**value, "usage": USAGE}))
    found = await client.completions.create(model="chat", prompt="hello")
    assert found.choices[0].text == "ab"
    assert running.small.asked[0].path == "/v1/completions"
    parts = [{**value, "choices": [{**choice, "text": text, "finish_reason": finish}]} for text, finish in (("a", None), ("b", "stop"))]
    running.play(small=streams(*parts))
    stream = await client.completions.create(model="chat", prompt="hello", stream=True)
    assert "".join([part.choices[0].text async for part in stream]) == "ab"


async def test_embeddings(running: Site, client: AsyncOpenAI) -> None:
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}]
    running.play(small=answers({"object": "list", "data": data, "model": "tiny", "usage": {"prompt_tokens": 2, "total_tokens": 2}}))
    raw = await client.embeddings.with_raw_response.create(model="chat", input="hello", encoding_format="float")
    assert raw.parse().data[0].embedding == [0.5, -0.5]
    (call,) = (await running.gateway.exchange(raw.headers["x-headgate-exchange-id"]))["calls"]
    assert (call["input_tokens"], call["output_tokens"]) == (2, 0)


def response(status: str = "completed", text: str = "hello") -> dict[str, Any]:
    content = {"type": "output_text", "text": text, "annotations": []}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": status,
        "model": "tiny",
        "output": [{"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [content]}],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 7,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 10,
        },
    }


def response_events(*texts: str) -> list[dict[str, Any]]:
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": {**response("in_progress"), "output": [], "usage": None}}]
    item: dict[str, Any] = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
    events.append({"type": "response.output_item.added", "output_index": 0, "item": item})
    events.append({"type": "response.content_part.added", **where, "part": {"type": "output_text", "text": "", "annotations": []}})
    events += [{"type": "response.output_text.delta", **where, "delta": text, "logprobs": []} for text in texts]
    events.append({"type": "response.completed", "response": response(text="".join(texts))})
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


async def test_responses(running: Site, client: AsyncOpenAI) -> None:
    running.play(small=answers(response()))
    raw = await client.responses.with_raw_response.create(model="chat", input="hello")
    assert raw.parse().output_text == "hello"
    assert running.small.asked[0].path == "/v1/responses"
    (call,) = (await running.gateway.exchange(raw.headers["x-headgate-exchange-id"]))["calls"]
    assert (call["input_tokens"], call["output_tokens"], call["finish_reasons"]) == (7, 3, ["completed"])


async def test_responses_streamed(running: Site, client: AsyncOpenAI) -> None:
    running.play(small=streams(*response_events("hel", "lo"), named=True))
    stream = await client.responses.create(model="chat", input="hello", stream=True)
    events = [event async for event in stream]
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == ["hel", "lo"]
    assert events[-1].type == "response.completed"
    async with client.responses.stream(model="chat", input="hello") as helper:
        async for _ in helper:
            pass
        assert (await helper.get_final_response()).output_text == "hello"


async def test_responses_that_break_off_are_an_error(running: Site, client: AsyncOpenAI) -> None:
    running.play(small=streams(*response_events("hel", "lo")[:-1], named=True))
    stream = await client.responses.create(model="chat", input="hello", stream=True)
    events = [event async for event in stream]
    last = events[-1]
    assert last.type == "error", "as OpenAI's own streams fail"
    assert last.message == "backend small broke off in the middle of its answer"
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == ["hel", "lo"]


async def test_models(running: Site, client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["chat"]
    assert (await client.models.retrieve("chat")).id == "chat"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("private")
    assert caught.value.code == "model_not_found"
    assert [model.id for model in await blocking(running, lambda each: each.models.list())] == ["chat"]


# Errors.


async def silent(c: Conversation) -> None:
    await c.until_closed()


@pytest.mark.parametrize(
    ("change", "script", "expected", "status", "code"),
    [
        ({"model": "gpt-9"}, speaks(), openai.NotFoundError, 404, "model_not_found"),
        ({"model": "private"}, speaks(), openai.PermissionDeniedError, 403, "model_not_allowed"),
        ({"messages": [{"role": "user", "content": "x" * 70_000}]}, speaks(), openai.APIStatusError, 413, None),
        ({"n": 0}, speaks(), openai.BadRequestError, 400, None),
        ({}, fails(400, "the context is too long"), openai.BadRequestError, 400, None),
        ({}, fails(422), openai.UnprocessableEntityError, 422, None),
        ({}, fails(429, headers="retry-after: 1\r\n"), openai.RateLimitError, 429, "backend_rate_limited"),
        ({}, fails(401), openai.InternalServerError, 502, "backend_error"),
        ({}, fails(500), openai.InternalServerError, 502, "backend_error"),
        ({}, fails(503), openai.InternalServerError, 503, "backend_unavailable"),
        ({}, silent, openai.InternalServerError, 504, "backend_timeout"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_are_the_sdks_exceptions(
    running: Site,
    client: AsyncOpenAI,
    change: dict[str, Any],
    script: Script,
    expected: type[openai.APIStatusError],
    status: int,
    code: str | None,
    stream: bool,
) -> None:
    running.play(small=script)
    request: dict[str, Any] = {"model": "chat", "messages": USER, "stream": stream} | change
    with pytest.raises(expected) as caught:
        await client.chat.completions.create(**request)
    error = caught.value
    assert (error.status_code, error.code) == (status, code)
    assert error.message
    if status != 413:
        assert error.request_id == error.response.headers["x-request-id"]


async def test_a_wrong_key(running: Site) -> None:
    async with AsyncOpenAI(base_url=f"{running.gateway.data}/v1", api_key="hg-wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(model="chat", messages=USER)
        assert caught.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()


async def test_a_stream_that_breaks_off_raises(running: Site, client: AsyncOpenAI) -> None:
    async def dies(c: Conversation) -> None:
        await c.start_stream()
        await c.event(chunk("one"))
        c.reset()

    running.play(small=dies)
    stream = await client.chat.completions.create(model="chat", messages=USER, stream=True)
    seen: list[Any] = []
    with pytest.raises(openai.APIError, match="broke off in the middle of its answer"):
        await collect(stream, seen)
    assert [part.choices[0].delta.content for part in seen] == ["one"]


async def test_the_sdk_retries_what_helps_and_not_what_harms(running: Site) -> None:
    """`retry-after-ms` is obeyed; `x-should-retry: false` keeps a slow backend from being asked the same again."""
    async with AsyncOpenAI(base_url=f"{running.gateway.data}/v1", api_key=KEYS["ACME"], max_retries=2) as client:

        async def once_full(c: Conversation) -> None:
            await (fails(503, headers="retry-after: 0\r\n") if len(running.small.asked) == 1 else speaks("now"))(c)

        running.play(small=once_full)
        found = await client.chat.completions.create(model="chat", messages=USER)
        assert found.choices[0].message.content == "now"
        assert len(running.small.asked) == 2

        running.play(small=silent)
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="chat", messages=USER)
        assert len(running.small.asked) == 1
