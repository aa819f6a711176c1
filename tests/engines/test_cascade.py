"""A cascade over real engines: their evidence is asked for, held, judged and taken out again, and the client notices nothing of it.

Each engine serves the specialist; the generalist is the embedded one. Thresholds lie on both sides of the score that the engine itself
gives for the same request.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx
import openai
import pytest
import pytest_asyncio

from gateway.embedded import tickets
from policies import scores
from policies.deferral import LOGITS_TOP
from policies.scores import Scores
from tests.e2e.gateway import Gateway, chat, events, gateway, said
from tests.engines.asking import client_of
from tests.engines.processes import Engine

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

TICKET = "The total on the receipt is higher than the price. Please help."
"""The specialist is not sure of it, and wrong."""
REPLY = f"Write a reply: {TICKET}"
"""It answers with some thirty tokens."""
LABEL_BY_BIG = "billing"
HOLD = 8
ASKED: dict[str, Any] = {"temperature": 0, "max_tokens": 40}

POLICY = """
version: 1
backends:
  - {name: small, kind: KIND, replicas: ["URL"], model: specialist, evidence: EVIDENCE, client_logprobs: PASS}
  - {name: big, kind: embedded, model: generalist}
routes:
"""
ROUTE = """
  - name: NAME
    matches: [{models: [NAME]}]
    cascade: {stages: [{backend: small, hold: {tokens: HOLD, for: 20s}, defer_when: RULE}], last: big}
"""
KINDS = {"llama_server": ("openai", "logprobs"), "vllm": ("vllm", "logprobs"), "vllm_logits": ("vllm", "logits")}
"""By the fixture of the engine: `kind` and `evidence`."""


class Stage:
    """A gateway before an engine, and what the engine says itself."""

    def __init__(self, name: str, engine: Engine, running: Gateway, score: Scores) -> None:
        self.name = name
        self.evidence = KINDS[name][1]
        self.engine = engine
        self.gateway = running
        self.score = score
        """Of REPLY's first tokens."""

    async def ask(self, model: str, content: str = REPLY, **more: Any) -> httpx.Response:
        async with self.gateway.client() as http:
            return await http.post("/v1/chat/completions", json=chat(model, content, **ASKED, **more))

    async def ask_engine(self, content: str = REPLY, **more: Any) -> httpx.Response:
        return await ask_engine(self.engine, content, **more)

    async def judgement(self, answer: httpx.Response) -> Any:
        (found,) = (await self.gateway.exchange(answer.headers["x-headgate-exchange-id"]))["findings"]["judgements"]
        return found


async def ask_engine(engine: Engine, content: str = REPLY, **more: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=engine.url, timeout=60) as http:
        return await http.post("/v1/chat/completions", json=chat("specialist", content, **ASKED, **more))


async def score_of(engine: Engine, evidence: str) -> Scores:
    """What the engine gives for REPLY, scored here."""
    asked = {"logprobs": True, "top_logprobs": LOGITS_TOP}
    await ask_engine(engine, **asked)  # what a cache of prompts changes in the last bits, it has changed by the second time
    answer = await ask_engine(engine, **asked)
    entries = answer.json()["choices"][0]["logprobs"]["content"][:HOLD]
    tops = [[each["logprob"] for each in entry["top_logprobs"]] for entry in entries]
    return scores.score([entry["logprob"] for entry in entries], tops, logits=evidence == "logits")


def rules(score: Scores, evidence: str) -> dict[str, str]:
    """Routes by name; thresholds lie on both sides of the score."""
    assert score.mean_logprob is not None
    assert score.mean_logprob < -1e-5, "two thresholds have to fit around it"
    found = {
        "accepts": f"{{score: mean_logprob, below: {score.mean_logprob * 1.2}}}",
        "defers": f"{{score: mean_logprob, below: {score.mean_logprob * 0.8}}}",
        "margin": "{score: margin, below: 0.0001}",
        "entropy": "{score: entropy, above: 3}",
    }
    if evidence == "logits":
        assert score.energy is not None
        found["accepts_energy"] = f"{{score: energy, above: {score.energy + 0.1}}}"
        found["defers_energy"] = f"{{score: energy, above: {score.energy - 0.1}}}"
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(KINDS))
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    engine: Engine = request.getfixturevalue(request.param)
    kind, evidence = KINDS[request.param]
    score = await score_of(engine, evidence)
    routes = "".join(
        ROUTE.replace("NAME", name).replace("RULE", rule).replace("HOLD", str(HOLD)) for name, rule in rules(score, evidence).items()
    )
    passing = "pass" if evidence == "logits" else "refuse"
    policy = POLICY.replace("KIND", kind).replace("EVIDENCE", evidence).replace("URL", engine.url).replace("PASS", passing)
    async with gateway(policy + routes, "--workers", "1") as running:
        yield Stage(request.param, engine, running, score)


def alike(body: bytes) -> bytes:
    """A reply without what no two replies share: its id and when it was made, and without llama-server's timings and vLLM's
    fingerprint. Those two stand in the chunk of the usage where the gateway has asked for that, and go with it; else in the last one.
    The last digits of a log-probability depend on what else vLLM computes just then."""
    body = re.sub(rb'"id":"[^"]*"', b'"id":""', body)
    body = re.sub(rb'"created":\d+', b'"created":0', body)
    body = re.sub(rb',"timings":\{[^}]*\}|,"system_fingerprint":"vllm[^"]*"', b"", body)
    return re.sub(rb'"logprob":(-?[0-9.e-]+)', lambda found: b'"logprob":%.4f' % float(found[1]), body)


class Joined(NamedTuple):
    """A stream however its tokens were parted: vLLM puts several in one chunk when it is asked too slowly, at worst all in the last."""

    text: str
    entries: list[Any]
    """All log-probabilities."""
    tokens: list[str]
    """The chunks that have tokens and nothing else, without those: one, or none."""
    others: list[str]


def joined(body: bytes) -> Joined:
    found = Joined("", [], [], [])
    texts: list[str] = []
    for event in events(alike(body)):
        shapes = found.others
        if isinstance(event, dict) and event["choices"]:
            (choice,) = event["choices"]
            if choice["finish_reason"] is None and "role" not in choice["delta"]:
                shapes = found.tokens
            texts.append(choice["delta"].pop("content", ""))  # the last chunk has none where it has no token
            if choice.get("logprobs"):
                found.entries.extend(choice["logprobs"]["content"])
                choice["logprobs"]["content"] = ["ENTRIES"]
        if (shape := json.dumps(event)) not in shapes:
            shapes.append(shape)
    return found._replace(text="".join(texts))


def same(stage: Stage, through: httpx.Response, direct: httpx.Response, *, streamed: bool) -> None:
    """Byte for byte; streams of vLLM token for token, in chunks of the same bytes but for those."""
    if streamed and stage.name != "llama_server":
        ours, theirs = joined(through.content), joined(direct.content)
        assert (ours.text, ours.entries, ours.others) == (theirs.text, theirs.entries, theirs.others)
        assert len({*ours.tokens, *theirs.tokens}) <= 1
    else:
        assert alike(through.content) == alike(direct.content)


@pytest.mark.parametrize("streamed", [True, False])
async def test_accepted_and_deferred_on_both_sides_of_the_real_score(stage: Stage, streamed: bool) -> None:
    names = ["mean_logprob", *(["energy"] if stage.evidence == "logits" else [])]
    for name in names:
        suffix = "" if name == "mean_logprob" else "_energy"
        accepted, deferred = await stage.ask(f"accepts{suffix}", stream=streamed), await stage.ask(f"defers{suffix}", stream=streamed)
        assert (accepted.headers["x-headgate-backend"], accepted.headers["x-headgate-reason"]) == ("small", "primary")
        assert (deferred.headers["x-headgate-backend"], deferred.headers["x-headgate-reason"]) == ("big", "low_confidence")
        for answer, was_deferred in ((accepted, False), (deferred, True)):
            text = said(answer.content) if streamed else answer.json()["choices"][0]["message"]["content"]
            assert text in tickets.REPLIES.values()
            assert b'"top_logprobs"' not in answer.content
            found = await stage.judgement(answer)
            assert (found["by"], found["deferred"]) == (name, was_deferred)
            assert found["status"] == ("partial" if stage.evidence == "logits" else "ok")
            assert found["value"] == pytest.approx(getattr(stage.score, name), rel=0.02, abs=1e-4)


@pytest.mark.parametrize("model", ["accepts", "margin", "entropy"])
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("content", [TICKET, REPLY])
async def test_the_client_gets_the_bytes_of_the_engine(stage: Stage, model: str, streamed: bool, content: str) -> None:
    """`margin` asks for two likeliest tokens, `entropy` for five; the client has asked for none."""
    through = await stage.ask(model, content, stream=streamed)
    if through.headers["x-headgate-backend"] == "big":
        assert content == TICKET
        assert model == "accepts"
        return
    same(stage, through, await stage.ask_engine(content, stream=streamed), streamed=streamed)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("top", [None, 0, 1, 3, 9])
async def test_log_probabilities_that_the_client_wants_too(stage: Stage, streamed: bool, top: int | None) -> None:
    """Fewer than the gateway asks for, or more: the client gets as many as it asked for."""
    more = {"logprobs": True} | ({} if top is None else {"top_logprobs": top})
    through, direct = await stage.ask("entropy", stream=streamed, **more), await stage.ask_engine(stream=streamed, **more)
    assert through.headers["x-headgate-backend"] == "small"
    assert (await stage.judgement(through))["value"] is not None
    if stage.name == "llama_server" and not top:
        # It sends twenty where none were asked for, and nothing at all for 0. The gateway asked for five, and cuts them all.
        found = entries_of(through, streamed)
        assert len(found) > HOLD
        assert [entry.get("top_logprobs") or [] for entry in found] == [[]] * len(found)
    else:
        same(stage, through, direct, streamed=streamed)


def entries_of(answer: httpx.Response, streamed: bool) -> list[Any]:
    """The log-probabilities of a reply, token by token."""
    choices = [event["choices"][0] for event in events(answer.content)[:-1] if event["choices"]] if streamed else answer.json()["choices"]
    return [entry for choice in choices for entry in (choice.get("logprobs") or {}).get("content") or ()]


async def test_the_sdk_streams_a_deferred_answer(stage: Stage) -> None:
    asked: dict[str, Any] = {"model": "defers", "messages": [{"role": "user", "content": TICKET}], **ASKED}
    client: openai.AsyncOpenAI = client_of(stage.gateway)
    chunks = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
    whole = await client.chat.completions.create(**asked)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content == LABEL_BY_BIG
    assert {chunk.model for chunk in chunks} == {whole.model} == {"generalist"}
    assert all(chunk.choices[0].logprobs is None for chunk in chunks)


async def test_usage_comes_only_to_a_client_that_asked(stage: Stage) -> None:
    usage: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    without, asking = await stage.ask("accepts", stream=True), await stage.ask("accepts", **usage)
    assert not any(isinstance(event, dict) and event.get("usage") for event in events(without.content))
    direct = await stage.ask_engine(**usage)
    same(stage, asking, direct, streamed=True)
