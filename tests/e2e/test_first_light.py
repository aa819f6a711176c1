"""The whole gateway over sockets: a request goes in, the backend's answer comes out."""

from __future__ import annotations

from tests.e2e.gateway import chat, events, gateway, said
from tests.standin import speaks, standin

POLICY = """
version: 1
backends:
  - {{name: small, kind: openai, replicas: ["{url}"], model: tiny, price: {{input: 1, output: 2, currency: EUR, per_tokens: 1000}}}}
routes:
  - {{name: main, matches: [{{models: [chat]}}], backend: small}}
"""


async def test_a_request_is_answered_streamed_and_whole_and_recorded() -> None:
    async with (
        standin(speaks("hello from here")) as backend,
        gateway(POLICY.format(url=backend.url)) as running,
        running.client() as client,
    ):
        whole = await client.post("/v1/chat/completions", json=chat())
        assert whole.status_code == 200
        assert whole.json()["choices"][0]["message"]["content"] == "hello from here"
        assert whole.headers["x-headgate-backend"] == "small"
        assert whole.headers["x-headgate-route"] == "main"
        assert whole.headers["x-headgate-reason"] == "primary"

        streamed = await client.post("/v1/chat/completions", json=chat(stream=True))
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert said(streamed.content).split() == ["hello", "from", "here"]
        assert events(streamed.content)[-1] == "[DONE]"
        assert not any(isinstance(event, dict) and event.get("usage") for event in events(streamed.content))

        assert [asked.json["model"] for asked in backend.asked] == ["tiny", "tiny"]
        assert backend.asked[1].json["stream_options"] == {"include_usage": True}
        for answer in (whole, streamed):
            record = await running.exchange(answer.headers["x-headgate-exchange-id"])
            assert record["route"] == "main"
            (call,) = record["calls"]
            assert (call["backend"], call["input_tokens"], call["output_tokens"]) == ("small", 7, 3)
            assert call["cost"] == 7 * 1 / 1000 + 3 * 2 / 1000
        await running.metric('headgate_requests_total{code="200",reason="primary",route="main"}', 2)
