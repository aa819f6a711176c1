"""A vLLM that returns logits and does not say so; and one whose engine dies while its server goes on answering."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.e2e.gateway import Gateway, chat, events, eventually, gateway
from tests.engines.asking import ENDLESS, LABEL, TICKET
from tests.engines.processes import Engine

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

POLICY = """
version: 1
backends:
  - {{name: right, kind: vllm, replicas: ["{logits}"], model: specialist, evidence: logits, readiness: {{every: 1s}}}}
  - {{name: wrong, kind: vllm, replicas: ["{logits}"], model: specialist, evidence: logprobs, readiness: {{every: 1s}}}}
  - {{name: spare, kind: openai, replicas: ["{spare}"], model: specialist, evidence: logprobs}}
  - {{name: boast, kind: vllm, replicas: ["{spare}"], model: specialist, evidence: logits}}
routes:
  - {{name: chat, matches: [{{models: [chat]}}], backend: wrong}}
  - {{name: safe, matches: [{{models: [safe]}}], failover: [right, spare]}}
  - {{name: boast, matches: [{{models: [boast]}}], backend: boast}}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(vllm_logits: Engine, llama_server: Engine) -> AsyncIterator[Gateway]:
    async with gateway(POLICY.format(logits=vllm_logits.url, spare=llama_server.url)) as started:
        yield started


async def test_evidence_is_what_the_policy_says_or_there_is_an_alert(running: Gateway, vllm_logits: Engine, llama_server: Engine) -> None:
    shown = {each["backend"]: each["replicas"][0] for each in (await running.ask_admin("/backends"))["backends"]}
    assert {name: replica["evidence_ok"] for name, replica in shown.items()} == {
        "right": True,
        "wrong": False,
        "spare": True,
        "boast": False,
    }
    assert all(replica["ready"] for replica in shown.values()), "a backend with other evidence goes on serving"
    assert "these are logits" in shown["wrong"]["message"]
    assert "these are log-probabilities" in shown["boast"]["message"]

    alerts = {(alert["alert"], alert["subject"]): alert for alert in (await running.ask_admin("/alerts"))["alerts"]}
    for backend, engine in (("wrong", vllm_logits), ("boast", llama_server)):
        assert alerts["evidence_mismatch", f"{backend} {engine.url}"]["state"] == "firing"
        await running.metric(f'headgate_backend_evidence_ok{{backend="{backend}",replica="{engine.url}"}}', 0)
    await running.metric(f'headgate_backend_evidence_ok{{backend="right",replica="{vllm_logits.url}"}}', 1)
    async with running.client() as http:
        answer = await http.post("/v1/chat/completions", json=chat(content=TICKET, temperature=0))
    assert answer.json()["choices"][0]["message"]["content"] == LABEL


async def test_an_engine_that_dies_behind_its_server_is_found_out_and_failed_over(running: Gateway, vllm_logits: Engine) -> None:
    async with running.client() as http:
        endless = chat("safe", TICKET, max_tokens=1900, stream=True, n=8, **ENDLESS)
        async with http.stream("POST", "/v1/chat/completions", json=endless) as answer:
            received = b""
            async for piece in answer.aiter_bytes():
                if not received:
                    vllm_logits.kill_core()
                received += piece
        *_, error, done = events(received)
        assert (answer.status_code, answer.headers["x-headgate-backend"]) == (200, "right")
        assert (error["error"]["type"], done) == ("server_error", "[DONE]")
        record = await running.exchange(answer.headers["x-headgate-exchange-id"])
        assert (record["code"], [call["result"] for call in record["calls"]]) == (502, ["error_event"])

        after = await http.post("/v1/chat/completions", json=chat("safe", TICKET, temperature=0))
        assert (after.status_code, after.headers["x-headgate-backend"], after.headers["x-headgate-reason"]) == (200, "spare", "failover")
        assert after.json()["choices"][0]["message"]["content"] == LABEL

        await running.metric(f'headgate_backend_ready{{backend="right",replica="{vllm_logits.url}"}}', 0)
        async with httpx.AsyncClient(base_url=vllm_logits.url) as direct:
            assert (await direct.get("/v1/models")).status_code == 200, "its list of models proves nothing"

        async def refused() -> bool:
            alone = await http.post("/v1/chat/completions", json=chat(content=TICKET))
            assert alone.status_code in (502, 503)
            return bool(alone.json()["error"]["code"] == "backend_unavailable")

        await eventually(refused)  # the worker hears of it after the metrics
