"""Audits over real sockets: the OpenAI SDK gets its answer, and the gateway checks it afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from gateway.link.messages import AuditRecord, ExchangeRecord
from tests.e2e.gateway import Gateway, chat, eventually, gateway
from tests.e2e.site import ALONE
from tests.standin import Script, Standin, fails, scored, speaks, standin

POLICY = """
version: 1
server: {drain: 20s}
backends:
  - {name: small, kind: openai, replicas: [SMALL], model: tiny, evidence: logprobs, ALONE}
  - {name: big, kind: openai, replicas: [BIG], model: huge, price: {output: 1, per_tokens: 1}, ALONE}
routes:
  - name: checked
    matches: [{models: [checked]}]
    cascade:
      stages: [{backend: small, hold: {tokens: 2, for: 5s}, defer_when: {score: mean_logprob, below: -0.5}}]
      last: big
      audit: {accepted_percent: 100, deferred_percent: 100, agree: label}
  - name: sampled
    matches: [{models: [sampled]}]
    cascade:
      stages: [{backend: small, hold: {tokens: 2, for: 5s}, defer_when: {score: mean_logprob, below: -0.5}}]
      last: big
      audit: {accepted_percent: 20, deferred_percent: 0}
"""
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Stage:
    """The gateway, what stands behind it, and the SDK."""

    def __init__(self, running: Gateway, small: Standin, big: Standin) -> None:
        self.gateway, self.small, self.big = running, small, big
        self.sdk = AsyncOpenAI(base_url=f"{running.data}/v1", api_key="none", max_retries=0, timeout=20)

    def play(self, small: Script, big: Script) -> None:
        self.small.script, self.big.script = small, big
        self.small.asked.clear()
        self.big.asked.clear()

    async def ask(self, model: str = "checked", stream: bool = False) -> tuple[str, str, str]:
        """Exchange id, who served, and what it said."""
        asked = self.sdk.chat.completions.with_raw_response
        answer = await asked.create(model=model, messages=[{"role": "user", "content": "hello there"}], stream=stream)
        parsed: Any = answer.parse()
        said = [each.choices[0].delta.content or "" async for each in parsed] if stream else [parsed.choices[0].message.content]
        return answer.headers["x-headgate-exchange-id"], answer.headers["x-headgate-backend"], "".join(said)

    async def record(self, exchange_id: str) -> ExchangeRecord:
        await self.gateway.until_stored([exchange_id])
        return next(each for each in self.gateway.stored() if each.exchange_id == exchange_id)

    async def counted(self, purpose: str, result: str) -> float:
        name = f'headgate_audits_total{{purpose="{purpose}",result="{result}",route="checked"}}'
        return (await self.gateway.scrape()).get(name, 0.0)


@asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    async with standin(speaks()) as small, standin(speaks()) as big:
        text = POLICY.replace("ALONE", ALONE).replace("SMALL", small.url).replace("BIG", big.url)
        async with gateway(text, "--workers", "1") as running:
            found = Stage(running, small, big)
            yield found
            await found.sdk.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with staged() as found:
        yield found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("said", "agreed"), [("**Yes** sir.", False), ("Yes sir", True)])
async def test_an_accepted_answer_is_checked_after_the_client_has_it(stage: Stage, stream: bool, said: str, agreed: bool) -> None:
    go_on = asyncio.Event()
    stage.play(scored("yes sir", -0.1), scored(said, -0.1, wait=go_on, after=1) if stream else _waits(scored(said, -0.1), go_on))
    result = "agreed" if agreed else "disagreed"
    before = await stage.counted("audit_accepted", result)
    exchange_id, backend, text = await stage.ask(stream=stream)
    assert (backend, text) == ("small", "yes sir ")

    async def asked() -> bool:
        return stage.big.generating == 1

    await eventually(asked)
    await stage.gateway.metric("headgate_audits_in_flight", 1)
    assert exchange_id not in {each.exchange_id for each in stage.gateway.stored()}, "its record waits for the audit"
    go_on.set()
    record = await stage.record(exchange_id)
    (audit,) = record.audits
    assert (audit.purpose, audit.backend, audit.agreed, audit.why) == ("audit_accepted", "big", agreed, "")
    assert audit.call is not None
    assert (audit.call.result, audit.call.started > record.calls[0].ended) == ("ok", True)
    assert record.duration < audit.call.ended
    small, big = stage.small.asked[-1].json, stage.big.asked[-1].json
    assert small.pop("logprobs") is True
    assert {**small, "model": "huge"} == big
    assert stage.big.asked[-1].headers["x-request-id"] == record.request_id
    assert stage.big.asked[-1].headers["traceparent"].split("-")[1:3] == [record.trace_id, audit.call.span_id]
    await stage.gateway.metric(f'headgate_audits_total{{purpose="audit_accepted",result="{result}",route="checked"}}', before + 1)
    await stage.gateway.metric("headgate_audits_in_flight", 0)


def _waits(script: Script, until: asyncio.Event) -> Script:
    async def waiting(c: Any) -> None:
        await until.wait()
        await script(c)

    return waiting


@pytest.mark.parametrize(("said", "agreed"), [("no sir", True), ("no madam", False)])
async def test_a_deferred_reply_is_let_finish(stage: Stage, said: str, agreed: bool) -> None:
    stage.play(scored("no sir", -2.0), speaks(said))
    exchange_id, backend, text = await stage.ask(stream=True)
    assert (backend, text) == ("big", f"{said} ")
    record = await stage.record(exchange_id)
    (audit,) = record.audits
    assert audit == AuditRecord("audit_deferred", "small", agreed)
    assert [call.result for call in record.calls] == ["ok", "ok"]
    assert record.calls[0].scores is not None
    assert record.calls[0].scores.tokens == 2


async def test_a_deferred_reply_goes_on_after_the_answer(stage: Stage) -> None:
    go_on = asyncio.Event()
    stage.play(scored("no no no sir", -2.0, wait=go_on, after=3), speaks("yes"))
    exchange_id, backend, text = await stage.ask(stream=True)
    assert (backend, text) == ("big", "yes ")
    assert stage.small.generating == 1
    go_on.set()
    record = await stage.record(exchange_id)
    assert record.audits == (AuditRecord("audit_deferred", "small", False),)
    assert record.calls[0].ended > record.duration


async def test_an_audit_that_fails_is_counted_and_no_client_knows(stage: Stage) -> None:
    stage.play(scored("yes sir", -0.1), fails(500))
    exchange_id, backend, _ = await stage.ask()
    assert backend == "small"
    record = await stage.record(exchange_id)
    (audit,) = record.audits
    assert (record.code, audit.agreed, audit.why) == (200, None, "error")
    assert audit.call is not None
    assert audit.call.status == 500


async def test_as_many_are_audited_as_the_policy_says(stage: Stage) -> None:
    stage.play(scored("yes sir", -0.1), scored("yes sir", -0.1))
    asked = [await stage.ask("sampled") for _ in range(100)]
    await stage.gateway.until_stored([each[0] for each in asked])
    ids = {each[0] for each in asked}
    audited = [each for each in stage.gateway.stored() if each.exchange_id in ids and each.audits]
    assert len(audited) == len(stage.big.asked)
    assert 5 <= len(audited) <= 40, "20 of 100, by a hash of random ids"
    assert all(each.audits[0].agreed for each in audited)


async def test_an_audit_ends_on_the_policy_that_its_request_began_on(stage: Stage) -> None:
    go_on = asyncio.Event()
    stage.play(scored("yes sir", -0.1), scored("yes sir", -0.1, wait=go_on, after=1))
    exchange_id, _, _ = await stage.ask(stream=True)

    async def asked() -> bool:
        return stage.big.generating == 1

    await eventually(asked)
    text = stage.gateway.policy.read_text()
    version = (await stage.gateway.ask_admin("/policy"))["version"]
    # `big` is another backend from now on: its upstream, and the call that is under way there, belong to the old version alone.
    await stage.gateway.write_policy(text.replace("model: huge", "model: other"))

    async def reloaded() -> bool:
        found = await stage.gateway.ask_admin("/policy")
        return bool(found["version"] != version)

    await eventually(reloaded, 30)
    _, _, answer = await stage.ask("checked")
    assert answer == "yes sir "
    await stage.gateway.metric("headgate_snapshots_alive", 2)
    go_on.set()
    record = await stage.record(exchange_id)
    assert (record.policy_version, record.audits[0].agreed) == (version, True)
    await stage.gateway.metric("headgate_snapshots_alive", 1)
    await stage.gateway.write_policy(text)


async def test_sigterm_waits_for_no_audit_and_loses_no_record() -> None:
    never = asyncio.Event()
    async with staged() as stage:
        stage.play(scored("yes sir", -0.1), scored("yes sir", -0.1, wait=never, after=1))
        exchange_id, _, _ = await stage.ask(stream=True)

        async def asked() -> bool:
            return stage.big.generating == 1

        await eventually(asked)
        started = asyncio.get_running_loop().time()
        await stage.gateway.stop()
        assert asyncio.get_running_loop().time() - started < 15, "the drain time is 20 s"
        (record,) = [each for each in stage.gateway.stored() if each.exchange_id == exchange_id]
        (audit,) = record.audits
        assert (record.code, audit.agreed, audit.why) == (200, None, "stopped")


async def test_answers_are_as_quick_as_ever_while_audits_hang(stage: Stage) -> None:
    """More of them than are audited at once: none waits, each of the others says that there was no room."""
    never = asyncio.Event()
    stage.play(scored("yes sir", -0.1), _waits(speaks("late"), never))
    async with stage.gateway.client() as client:
        answers = [await client.post("/v1/chat/completions", json=chat("checked")) for _ in range(70)]
    assert {answer.status_code for answer in answers} == {200}
    await stage.gateway.metric("headgate_audits_in_flight", 64)
    await stage.gateway.metric('headgate_audits_total{purpose="audit_accepted",result="busy",route="checked"}', 6)
    assert len(stage.big.asked) == 64
    never.set()
    await stage.gateway.until_stored([answer.headers["x-headgate-exchange-id"] for answer in answers])
