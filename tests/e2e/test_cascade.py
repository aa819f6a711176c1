"""A guard, a cascade and a hedge over real sockets, asked by the OpenAI SDK: who answers, why, and that the client notices nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from openai import APIStatusError, AsyncOpenAI

from tests.e2e.gateway import chat, events, eventually, gateway, said
from tests.e2e.site import KEYS
from tests.policies.golden import NAMED
from tests.standin import Script, Standin, fails, scored, speaks, standin

POLICY = """
version: 1
backends:
  - {name: small, kind: openai, replicas: [SMALL], model: tiny, evidence: logprobs, ALONE}
  - {name: big, kind: openai, replicas: [BIG], model: huge, evidence: logprobs, ALONE}
  - {name: slow, kind: openai, replicas: [SMALL, BIG], model: tiny, balance: round_robin, ALONE}
detectors:
  - {name: domain, artifact: d.npz}
segments: []
routes:
  - name: sure
    matches: [{models: [sure]}]
    cascade: {stages: [{backend: small, hold: {tokens: 3, for: 5s}, defer_when: {score: mean_logprob, below: -0.5}}], last: big}
  - name: held
    matches: [{models: [held]}]
    cascade:
      stages: [{backend: small, hold: {tokens: 3, for: 5s}, defer_when: {score: margin, below: 0.5}}]
      last: big
      when_last_fails: serve_held
  - name: limited
    matches: [{models: [limited]}]
    cascade:
      stages: [{backend: small, hold: {tokens: 3, for: 5s}, defer_when: {score: mean_logprob, below: -0.5}}]
      last: big
      defer_limit: {percent: 50, window: 10m, when_exceeded: serve}
  - name: quick
    matches: [{models: [quick]}]
    cascade:
      stages: [{backend: small, hold: {tokens: 100, for: 100ms}, defer_when: {score: mean_logprob, below: -0.5}, when_unscored: defer}]
      last: big
  - name: guarded
    matches: [{models: [guarded]}]
    guard: {detector: domain, when_ood: to_last}
    cascade: {stages: [{backend: small, hold: {tokens: 3, for: 5s}, defer_when: {score: mean_logprob, below: -0.5}}], last: big}
  - name: refused
    matches: [{models: [refused]}]
    guard: {detector: domain, when_ood: refuse}
    backend: small
  - name: hedged
    matches: [{models: [hedged]}]
    backend: slow
    hedge: {after: 100ms, budget_percent: 50, to: replica}
keys:
  - {name: acme, sha256: "${env:ACME_SHA256}", debug: true}
"""
IN_DOMAIN = "please cancel my parcel today"
ALONE = "retries: {attempts: 1}, breaker: {failures: 1000}, readiness: {every: 1h}"
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Stage:
    """The gateway, what stands behind it, and two ways to ask."""

    def __init__(self, running: Any, small: Standin, big: Standin) -> None:
        self.gateway, self.small, self.big = running, small, big
        self.sdk = AsyncOpenAI(base_url=f"{running.data}/v1", api_key=KEYS["ACME"], max_retries=0, timeout=20)
        self.http = running.client(KEYS["ACME"])

    def play(self, small: Script, big: Script) -> None:
        self.small.script, self.big.script = small, big
        self.small.asked.clear()
        self.big.asked.clear()

    async def ask(self, model: str, content: str = "hello there", **more: Any) -> httpx.Response:
        answer = await self.http.post("/v1/chat/completions", json=chat(model, content, **more), headers={"x-headgate-debug": "true"})
        assert isinstance(answer, httpx.Response)
        return answer

    async def record(self, answer: httpx.Response) -> dict[str, Any]:
        found = await self.gateway.exchange(answer.headers["x-headgate-exchange-id"])
        assert isinstance(found, dict)
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    from hashlib import sha256

    async with standin(speaks()) as small, standin(speaks()) as big:
        text = POLICY.replace("ALONE", ALONE).replace("SMALL", small.url).replace("BIG", big.url)
        data = (NAMED / "detectors" / "support.npz").read_bytes()
        environment = {"ACME_SHA256": sha256(KEYS["ACME"].encode()).hexdigest()}
        async with gateway(text, "--workers", "1", environment=environment, files={"d.npz": data}) as running:
            found = Stage(running, small, big)
            yield found
            await found.sdk.close()
            await found.http.aclose()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("logprob", "backend", "reason"), [(-0.1, "small", "primary"), (-2.0, "big", "low_confidence")])
async def test_the_sdk_gets_one_answer_of_whoever_was_sure(stage: Stage, stream: bool, logprob: float, backend: str, reason: str) -> None:
    stage.play(scored("small says so and so", logprob), scored("big knows", -0.1))
    text = {"small": "small says so and so ", "big": "big knows "}[backend]
    asked = stage.sdk.chat.completions.with_raw_response
    answer = await asked.create(model="sure", messages=[{"role": "user", "content": "hello there"}], stream=stream)
    assert (answer.headers["x-headgate-backend"], answer.headers["x-headgate-reason"]) == (backend, reason)
    parsed: Any = answer.parse()
    if stream:
        pieces = [each async for each in parsed]
        assert "".join(each.choices[0].delta.content or "" for each in pieces) == text
        assert all(each.choices[0].logprobs is None for each in pieces)
        assert {each.model for each in pieces} == {{"small": "tiny", "big": "huge"}[backend]}
    else:
        assert parsed.choices[0].message.content == text
        assert parsed.choices[0].logprobs is None
    assert stage.small.asked[-1].json["logprobs"] is True
    assert len(stage.big.asked) == (backend == "big")
    assert "logprobs" not in (stage.big.asked[-1].json if stage.big.asked else {})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("more", [{}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 1}, {"logprobs": True, "top_logprobs": 5}])
@pytest.mark.parametrize("model", ["sure", "held"])
async def test_the_client_gets_the_bytes_that_it_would_have_got_without_the_gateway(
    stage: Stage, model: str, stream: bool, more: dict[str, Any]
) -> None:
    """`held` goes by a margin: the gateway asks for two of the likeliest tokens."""
    stage.play(scored("one two three four five", -0.1), scored("big", -0.1))
    if model == "held":
        stage.small.script = scored("one two three four five", -0.1)
    through = await stage.ask(model, stream=stream, **more)
    if model == "held":  # whose margin of 0.2 is deferred: look at what big was asked
        assert through.headers["x-headgate-backend"] == "big"
        stage.small.script = stage.big.script
    async with httpx.AsyncClient(base_url=stage.small.url) as direct:
        plain = await direct.post("/v1/chat/completions", json={**chat("huge" if model == "held" else "tiny"), "stream": stream, **more})
    assert through.content == plain.content


async def test_the_record_and_the_debug_headers_say_why(stage: Stage) -> None:
    stage.play(scored("one two three four", -2.0), speaks("big knows"))
    answer = await stage.ask("sure", stream=True)
    assert said(answer.content).split() == ["big", "knows"]
    assert answer.headers["x-headgate-confidence"] == "-2"
    assert answer.headers["x-headgate-score-status"] == "ok"
    record = await stage.record(answer)
    (judgement,) = record["findings"]["judgements"]
    assert judgement == {
        "backend": "small",
        "deferred": True,
        "by": "mean_logprob",
        "call": 0,
        "value": -2.0,
        "bound": -0.5,
        "status": "ok",
    }
    small, big = record["calls"]
    assert (small["result"], big["result"]) == ("cancelled", "ok")
    assert (small["scores"]["tokens"], small["scores"]["mean_logprob"]) == (3, -2.0)
    assert small["held"] >= small["first_content"]
    await stage.gateway.metric('headgate_deferrals_total{backend="small",by="mean_logprob",route="sure"}', await deferrals(stage))
    assert await deferrals(stage) >= 1


async def deferrals(stage: Stage) -> float:
    found = await stage.gateway.scrape()
    return float(found.get('headgate_deferrals_total{backend="small",by="mean_logprob",route="sure"}', 0.0))


async def test_nothing_of_a_deferred_reply_is_sent_and_its_backend_stops_at_once(stage: Stage) -> None:
    never = asyncio.Event()
    stage.play(scored("bad bad bad bad bad bad", -2.0, wait=never, after=4), scored("good words", -0.1))
    answer = await stage.ask("sure", stream=True)
    assert said(answer.content).split() == ["good", "words"]
    assert b"bad" not in answer.content

    async def stopped() -> bool:
        return stage.small.generating == 0

    await eventually(stopped)


async def test_the_hold_is_over_so_long_after_the_first_token(stage: Stage) -> None:
    """Fewer tokens than held, and the reply has not ended: truncated, so `when_unscored` decides."""
    never = asyncio.Event()
    stage.play(scored("one two three", -0.1, wait=never, after=2), scored("good words", -0.1))
    answer = await stage.ask("quick", stream=True)
    assert answer.headers["x-headgate-backend"] == "big"
    (judgement,) = (await stage.record(answer))["findings"]["judgements"]
    assert stage.big.asked
    assert (judgement["by"], judgement["status"], judgement["deferred"]) == ("when_unscored", "truncated", True)


async def test_what_was_accepted_goes_on_while_it_is_still_written(stage: Stage) -> None:
    go_on = asyncio.Event()
    stage.play(scored("one two three four five", -0.1, wait=go_on, after=3), scored("big", -0.1))
    async with stage.http.stream("POST", "/v1/chat/completions", json=chat("sure", stream=True)) as answer:
        got = b""
        async for piece in answer.aiter_raw():
            got += piece
            if b"three" in got and not go_on.is_set():
                assert b"four" not in got
                go_on.set()
    assert said(got) == "one two three four five "
    assert all("logprobs" not in str(each.get("choices", [{}])[0].get("logprobs")) for each in events(got) if isinstance(each, dict))


@pytest.mark.parametrize("failing", [fails(500), fails(400), fails(429)])
async def test_a_failure_of_the_small_model_is_none_of_the_route(stage: Stage, failing: Script) -> None:
    stage.play(failing, scored("big knows", -0.1))
    answer = await stage.ask("sure")
    assert (answer.status_code, answer.headers["x-headgate-backend"], answer.headers["x-headgate-reason"]) == (200, "big", "failover")


@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_held_is_served_where_the_last_stage_fails(stage: Stage, stream: bool) -> None:
    stage.play(scored("one two three four", -0.1), fails(500))
    answer = await stage.ask("held", stream=stream)
    assert answer.status_code == 200
    assert (answer.headers["x-headgate-backend"], answer.headers["x-headgate-low-confidence"]) == ("small", "true")
    text = said(answer.content) if stream else answer.json()["choices"][0]["message"]["content"]
    assert text == "one two three four "
    assert (await stage.record(answer))["findings"]["low_confidence"] is True


async def test_beyond_the_limit_the_small_answer_is_served_and_flagged(stage: Stage) -> None:
    stage.play(scored("one two three", -2.0), scored("big knows", -0.1))
    served = [await stage.ask("limited") for _ in range(30)]
    backends = [answer.headers["x-headgate-backend"] for answer in served]
    assert backends[:20] == ["big"] * 20, "too few to speak of a share"
    assert set(backends[20:]) == {"small"}
    assert {answer.headers.get("x-headgate-low-confidence") for answer in served[20:]} == {"true"}
    await stage.gateway.metric('headgate_defer_limited_total{route="limited"}', 10)

    async def alerted() -> bool:
        alerts = (await stage.gateway.ask_admin("/alerts"))["alerts"]
        return any(alert["alert"] == "defer_limit" and alert["subject"] == "limited" for alert in alerts)

    await eventually(alerted)


async def test_a_request_that_is_out_of_distribution_goes_to_the_last_stage(stage: Stage) -> None:
    stage.play(scored("small says", -0.1), scored("big knows", -0.1))
    strange = await stage.ask("guarded", "zzz qqq vvv xylophone volcano 12345 lambda calculus")
    known = await stage.ask("guarded", IN_DOMAIN)
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    mute = await stage.ask("guarded", picture)  # type: ignore[arg-type]
    seen = [
        (each.headers["x-headgate-ood"], each.headers["x-headgate-backend"], each.headers["x-headgate-reason"])
        for each in (strange, known, mute)
    ]
    assert seen == [("true", "big", "ood"), ("false", "small", "primary"), ("unscored", "small", "primary")]
    record = (await stage.record(strange))["findings"]
    assert (record["ood"], record["assessment"]["status"]) == ("true", "ok")
    assert record["assessment"]["score"] is not None
    assert float(strange.headers["x-headgate-energy"]) == pytest.approx(record["assessment"]["energy"], rel=1e-4)


async def test_a_refusal_is_an_error_that_the_sdk_knows(stage: Stage) -> None:
    with pytest.raises(APIStatusError) as caught:
        await stage.sdk.chat.completions.create(
            model="refused", messages=[{"role": "user", "content": "zzz qqq vvv xylophone volcano 12345 lambda calculus"}]
        )
    assert (caught.value.status_code, caught.value.code) == (422, "out_of_distribution")
    assert caught.value.response.headers["x-headgate-ood"] == "true"


async def test_a_client_that_leaves_mid_hold_takes_every_call_with_it(stage: Stage) -> None:
    never = asyncio.Event()
    stage.play(scored("one two three", -0.1, wait=never, after=1), scored("big", -0.1))
    with pytest.raises(httpx.ReadTimeout):
        await stage.http.post("/v1/chat/completions", json=chat("sure", stream=True), timeout=0.3)

    async def stopped() -> bool:
        return stage.small.generating == stage.big.generating == 0

    await eventually(stopped)
    assert len(stage.small.asked) == 1


async def test_a_slow_replica_is_beaten_by_the_other(stage: Stage) -> None:
    never = asyncio.Event()
    stuck = scored("one two", -0.1, wait=never, after=0)
    for slow in (True, False):
        stage.play(*((stuck, scored("quick", -0.1)) if slow else (scored("quick", -0.1), stuck)))
        answer = await stage.ask("hedged", stream=True)
        assert said(answer.content) == "quick "
        if answer.headers["x-headgate-reason"] == "hedge":
            break
    assert answer.headers["x-headgate-calls"] == "2"
    first, second = (await stage.record(answer))["calls"]
    assert (first["result"], second["result"]) == ("cancelled", "ok")
    assert first["attempts"][0]["replica"] != second["attempts"][0]["replica"]


async def test_the_story_of_a_deferred_request_is_told(stage: Stage) -> None:
    from gateway.records.story import story

    stage.play(scored("one two three four", -2.0), scored("big knows", -0.1))
    answer = await stage.ask("sure", stream=True)
    await stage.gateway.until_stored([answer.headers["x-headgate-exchange-id"]])
    (record,) = [each for each in stage.gateway.stored() if each.exchange_id == answer.headers["x-headgate-exchange-id"]]
    told = "\n".join(story(record))
    assert "deferred" in told
    assert "deferred: mean_logprob is -2 against -0.5" in told
    assert "scores of 3 tokens (ok): mean_logprob -2" in told
