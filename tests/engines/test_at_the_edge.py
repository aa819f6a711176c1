"""Backends that keep to less of the format than the engines do, played by a stand-in."""

from __future__ import annotations

import openai

from tests.e2e.gateway import chat, events, gateway, said
from tests.engines.asking import client_of, messages
from tests.standin import Conversation, chunk, completion, standin

POLICY = """
version: 1
backends:
  - {{name: edge, kind: openai, replicas: ["{url}"], model: tiny, evidence: {evidence}, readiness: {{prompt: hello}}}}
routes:
  - {{name: main, matches: [{{models: [chat]}}], backend: edge}}
"""


async def speaks_without_done(c: Conversation) -> None:
    """As `transformers serve`: no logprobs, no usage, and a stream that ends with the finish_reason."""
    if not c.asked.json.get("stream"):
        await c.json(completion("hello there"))
        return
    await c.start_stream()
    await c.event(chunk(role=True))
    for word in ("hello ", "there"):
        await c.event(chunk(word))
    await c.event(chunk(finish="stop"))
    await c.end_stream(done=False)


async def breaks_off(c: Conversation) -> None:
    """The same, without the finish_reason."""
    await c.start_stream()
    await c.event(chunk("hello ", role=True))
    await c.end_stream(done=False)


async def test_a_stream_without_done_is_whole_if_it_had_its_finish_reason_and_gets_its_done() -> None:
    async with (
        standin(speaks_without_done) as backend,
        gateway(POLICY.format(url=backend.url, evidence="none")) as running,
        running.client() as http,
    ):
        answer = await http.post("/v1/chat/completions", json=chat(stream=True))
        assert said(answer.content) == "hello there"
        assert events(answer.content)[-1] == "[DONE]"
        record = await running.exchange(answer.headers["x-headgate-exchange-id"])
        (call,) = record["calls"]
        assert (record["code"], call["result"], call["finish_reasons"]) == (200, "ok", ["stop"])
        assert call["output_tokens"] is None

        backend.script = breaks_off
        answer = await http.post("/v1/chat/completions", json=chat(stream=True))
        *_, error, done = events(answer.content)
        assert error["error"]["code"] == "backend_error"
        assert done == "[DONE]"


async def test_evidence_that_it_does_not_give_is_an_alert_and_it_serves_on() -> None:
    async with (
        standin(speaks_without_done) as backend,
        gateway(POLICY.format(url=backend.url, evidence="logprobs")) as running,
    ):
        (shown,) = (await running.ask_admin("/backends"))["backends"]
        assert (shown["replicas"][0]["ready"], shown["replicas"][0]["evidence_ok"]) == (True, False)
        await running.metric(f'headgate_backend_evidence_ok{{backend="edge",replica="{backend.url}"}}', 0)
        await running.metric(f'headgate_alerts{{alert="evidence_mismatch",subject="edge {backend.url}"}}', 1)
        client: openai.AsyncOpenAI = client_of(running)
        answer = await client.chat.completions.create(model="chat", messages=messages())
        assert answer.choices[0].message.content == "hello there"
