"""Every example of `deploy/examples`, served as it stands but for the addresses, in front of stand-ins."""

from __future__ import annotations

import asyncio
import hashlib
import re
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from tests.e2e.gateway import chat, gateway, said
from tests.standin import Standin, scored, speaks, standin

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
ASK = {
    "one-vllm": [("my-model", "", "my-model")],
    "ollama-laptop": [("chat", "", "llama"), ("gpt-4o-mini", "", "llama")],
    "cascade": [("support", "", "support-ft")],
    "failover": [("support", "", "support-ft"), ("llama-70b", "", "big")],
    "multi-tenant-lora": [("assistant", "acme-prod", "acme"), ("assistant", "globex-prod", "globex")],
}
"""Model, key and the backend that should answer."""


def test_every_example_is_here() -> None:
    assert {path.parent.name for path in EXAMPLES.glob("*/policy.yaml")} == set(ASK)


def secret(name: str) -> str:
    return f"hg-key-of-{name}-for-the-tests-only"


async def on_standins(stack: AsyncExitStack, folder: Path) -> tuple[str, dict[str, str], dict[str, Standin]]:
    """The example's policy on stand-ins, its other files with keys that the test knows, and the stand-ins by address."""
    text = (folder / "policy.yaml").read_text()
    backends = {}
    for address in sorted(set(re.findall(r"http://127\.0\.0\.1:\d+", text))):
        backends[address] = await stack.enter_async_context(standin(speaks("as the example says")))
        text = re.sub(rf"{re.escape(address)}\b", backends[address].url, text)
    files = {str(path.relative_to(folder)): hashlib.sha256(secret(path.stem).encode()).hexdigest() for path in folder.glob("keys/*.sha256")}
    return text, files, backends


@pytest.mark.parametrize("name", sorted(ASK))
async def test_an_example_serves_what_its_readme_says(name: str) -> None:
    async with AsyncExitStack() as stack:
        text, files, backends = await on_standins(stack, EXAMPLES / name)
        webhook = await stack.enter_async_context(standin(speaks()))
        environment = {"BIG_KEY": "a-key-for-big", "ALERT_URL": webhook.url}
        running = await stack.enter_async_context(gateway(text, files=files, environment=environment))
        for model, key, backend in ASK[name]:
            async with running.client(secret(key) if key else None) as client:
                whole = await client.post("/v1/chat/completions", json=chat(model))
                assert (whole.status_code, whole.headers["x-headgate-backend"]) == (200, backend), whole.text
                streamed = await client.post("/v1/chat/completions", json=chat(model, stream=True))
                assert said(streamed.content).split() == ["as", "the", "example", "says"]
                names = {each["id"] for each in (await client.get("/v1/models")).json()["data"]}
                assert model in names
        assert [alert for alert in (await running.ask_admin("/alerts"))["alerts"] if alert["state"] == "firing"] == []
        if name == "failover":
            await fail_over(running.client(), backends)
        if name == "cascade":
            await defer(running.client(), backends)
        if name == "multi-tenant-lora":
            async with running.client() as client:
                assert (await client.post("/v1/chat/completions", json=chat("assistant"))).status_code == 401


async def defer(client: httpx.AsyncClient, backends: dict[str, Standin]) -> None:
    """The fine-tuned model is not sure: the big one answers, streamed or not."""
    *small, big = [backends[address] for address in sorted(backends)]
    for each in small:
        each.script = scored("well I do not know", -2.0)
    async with client:
        for stream in (False, True):
            answer = await client.post("/v1/chat/completions", json=chat("support", stream=stream))
            assert (answer.headers["x-headgate-backend"], answer.headers["x-headgate-reason"]) == ("big", "low_confidence")
            assert b"know" not in answer.content
    assert big.asked[-1].headers["authorization"] == "Bearer a-key-for-big"


async def fail_over(client: object, backends: dict[str, Standin]) -> None:
    """Both replicas of the fine-tuned model die; the big one answers with its own key."""
    import httpx

    assert isinstance(client, httpx.AsyncClient)
    *small, big = [backends[address] for address in sorted(backends)]
    await asyncio.gather(*(each.stop() for each in small))
    async with client:
        answer = await client.post("/v1/chat/completions", json=chat("support"))
    assert (answer.headers["x-headgate-backend"], answer.headers["x-headgate-reason"]) == ("big", "failover")
    assert big.asked[-1].headers["authorization"] == "Bearer a-key-for-big"
