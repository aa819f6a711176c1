"""The specialist says the same on every engine: exported as it is, nothing lost on the way."""

from __future__ import annotations

import asyncio

import pytest

from gateway.embedded import corpus
from tests.e2e.gateway import gateway
from tests.engines.asking import client_of, messages
from tests.engines.processes import Engine

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

POLICY = """
version: 1
backends:
  - {{name: embedded, kind: embedded, model: specialist, evidence: logprobs}}
  - {{name: llama, kind: openai, replicas: ["{llama}"], model: specialist}}
  - {{name: vllm, kind: vllm, replicas: ["{vllm}"], model: specialist}}
routes:
  - {{name: embedded, matches: [{{models: [embedded]}}], backend: embedded}}
  - {{name: llama, matches: [{{models: [llama]}}], backend: llama}}
  - {{name: vllm, matches: [{{models: [vllm]}}], backend: vllm}}
"""
PROMPTS = 20


async def test_every_engine_gives_the_same_labels_with_the_same_confidence(vllm: Engine, llama_server: Engine) -> None:
    examples = [*corpus.evaluation("tickets", PROMPTS // 2), *corpus.evaluation("tickets_turned", PROMPTS // 2)]
    async with gateway(POLICY.format(vllm=vllm.url, llama=llama_server.url)) as running:
        client = client_of(running)

        async def ask(model: str, prompt: str) -> tuple[str | None, float]:
            answer = await client.chat.completions.create(
                model=model, messages=messages(prompt), temperature=0, max_tokens=8, logprobs=True, top_logprobs=2
            )
            (choice,) = answer.choices
            assert choice.logprobs is not None
            return choice.message.content, (choice.logprobs.content or [])[0].logprob

        said = {
            model: await asyncio.gather(*(ask(model, example.prompt) for example in examples)) for model in ("embedded", "llama", "vllm")
        }
    assert len({label for label, _ in said["embedded"]}) >= 4
    for engine in ("llama", "vllm"):
        assert [label for label, _ in said[engine]] == [label for label, _ in said["embedded"]]
        assert [confidence for _, confidence in said[engine]] == pytest.approx([confidence for _, confidence in said["embedded"]], abs=0.02)
