"""A small model that begins to disagree, over real sockets: it is caught, and what follows is the policy's, on every worker and over
restarts."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.cli.main import main
from policies import calibrated
from tests.e2e.gateway import ADMIN_KEY, Gateway, chat, eventually, gateway
from tests.e2e.site import ALONE
from tests.policies.golden import NAMED
from tests.standin import Conversation, Standin, scored, speaks, standin

ROUTE = """
  - name: NAME
    matches: [{models: [NAME]}]
    cascade:
      stages: [{backend: small, hold: {tokens: 24}, defer_when: {calibration: c.json}}]
      last: big
      audit: {accepted_percent: 100, deferred_percent: 100, agree: label, on_violation: NAME}
"""
POLICY = """
version: 1
backends:
  - {name: small, kind: openai, replicas: [SMALL], model: tiny, evidence: logprobs, price: {output: 1, per_tokens: 1}, ALONE}
  - {name: big, kind: openai, replicas: [BIG], model: huge, price: {output: 9, per_tokens: 1}, ALONE}
routes:
""" + "".join(ROUTE.replace("NAME", name) for name in ("alert", "tighten", "disable"))
SURE, LESS, UNSURE = -0.1, -1.5, -3.0
"""Log-probabilities that `calibrations/support.json` accepts, accepts unless it is tightened, and defers."""
ASKED_MAX = 60
pytestmark = pytest.mark.asyncio(loop_scope="module")


async def asked_for(c: Conversation) -> None:
    """As sure as the request says, and of the opinion that it gives: `-0.1 yes`."""
    logprob, opinion = str(c.asked.json["messages"][-1]["content"]).split()
    await scored(opinion, float(logprob))(c)


class Stage:
    """A gateway of two workers, and a small model whose answers are asked for."""

    def __init__(self, running: Gateway, small: Standin) -> None:
        self.gateway, self.small = running, small
        self.http = running.client()

    async def ask(self, route: str, logprob: float, opinion: str) -> httpx.Response:
        answer = await self.http.post("/v1/chat/completions", json=chat(route, f"{logprob} {opinion}"))
        assert answer.status_code == 200, answer.text
        return answer

    async def report(self, route: str) -> dict[str, Any]:
        found = (await self.gateway.ask_admin("/cascades"))["cascades"]
        return next(each for each in found if each["route"] == route)

    async def break_promise(self, route: str) -> int:
        """Let the small model disagree until it is caught; after how many requests."""
        for asked in range(1, ASKED_MAX):
            await self.ask(route, LESS, "no")

            async def counted(asked: int = asked) -> dict[str, Any] | None:
                found = await self.report(route)
                return found if found["audited"] >= asked or found["violations"] else None

            if (await eventually(counted))["violations"]:
                return asked
        raise AssertionError(f"{ASKED_MAX} disagreements, and no alarm")

    async def served_by(self, route: str, backend: str, logprob: float) -> None:
        """Wait until every worker serves such a request so: over connections of their own, which the workers share."""

        async def look() -> bool:
            async with self.gateway.client() as client:
                asked = [chat(route, f"{logprob} yes") for _ in range(6)]
                answers = await asyncio.gather(*(client.post("/v1/chat/completions", json=each) for each in asked))
            return all(answer.headers["x-headgate-backend"] == backend for answer in answers)

        await eventually(look)

    async def state(self, route: str, state: str) -> None:
        await self.gateway.metric(f'headgate_audit_promise{{route="{route}",state="{state}"}}', 1)

    async def alerted(self, route: str) -> bool:
        alerts = (await self.gateway.ask_admin("/alerts"))["alerts"]
        return any((each["alert"], each["subject"], each["state"]) == ("audit_violation", route, "firing") for each in alerts)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with standin(asked_for) as small, standin(speaks("yes")) as big:
        text = POLICY.replace("ALONE", ALONE).replace("SMALL", small.url).replace("BIG", big.url)
        data = (NAMED / "calibrations" / "support.json").read_bytes()
        async with gateway(text, "--workers", "2", files={"c.json": data}) as running:
            found = Stage(running, small)
            yield found
            await found.http.aclose()


async def test_a_broken_promise_is_told(stage: Stage) -> None:
    await stage.ask("alert", SURE, "yes")
    assert (await stage.report("alert"))["state"] == "unconfirmed"
    assert await stage.break_promise("alert") < 30
    await eventually(lambda: stage.alerted("alert"))
    await stage.state("alert", "broken")
    await stage.served_by("alert", "small", LESS)
    status = {each["route"]: each for each in (await stage.gateway.ask_admin("/status"))["cascades"]}
    assert (status["alert"]["promise"], status["disable"]["promise"]) == ("broken", "unconfirmed")


async def test_a_broken_promise_tightens_the_thresholds_of_every_worker(stage: Stage) -> None:
    await stage.break_promise("tighten")
    await stage.served_by("tighten", "big", LESS)
    await stage.served_by("tighten", "small", SURE)
    await stage.gateway.metric('headgate_audit_tightened{route="tighten"}', 1)
    assert await stage.alerted("tighten")
    answer = await stage.ask("tighten", LESS, "no")
    (judgement,) = (await stage.gateway.exchange(answer.headers["x-headgate-exchange-id"]))["findings"]["judgements"]
    assert (judgement["deferred"], judgement["bound"]) == (True, 0.8)


async def test_a_broken_promise_disables_the_cascade_until_it_is_changed(stage: Stage) -> None:
    await stage.break_promise("disable")
    await stage.served_by("disable", "big", SURE)
    stage.small.asked.clear()
    await stage.ask("disable", SURE, "yes")
    assert not stage.small.asked, "a stage that is disabled is not paid for"
    for role in ("worker", "controller"):
        before = stage.gateway.pids(role)
        await asyncio.sleep(1.2)  # what the controller writes down, it writes once a second
        os.kill(before[0], signal.SIGKILL)
        await stage.gateway.wait_pids(role, other_than=before)
        await stage.served_by("disable", "big", SURE)
        await stage.state("disable", "disabled")
    text = stage.gateway.policy.read_text()
    await stage.gateway.write_policy(text + "server: {drain: 9s}\n")

    async def reloaded() -> bool:
        return len((await stage.report("disable"))["versions"]) == 2

    await eventually(reloaded)
    await stage.served_by("disable", "big", SURE)
    await stage.gateway.write_policy(text.replace("model: tiny", "model: mended"))
    await stage.served_by("disable", "small", SURE)
    await stage.state("disable", "unconfirmed")
    await stage.gateway.ask_admin("/rollback", "POST")
    assert (await stage.report("disable"))["state"] == "unconfirmed", "what is changed begins anew, the way back too"


async def test_what_audits_have_done_can_be_undone_by_hand(stage: Stage) -> None:
    await stage.break_promise("disable")
    await stage.served_by("disable", "big", SURE)
    await stage.gateway.ask_admin("/cascades/disable/restart", "POST")
    await stage.served_by("disable", "small", SURE)


async def test_the_report_and_a_calibration_of_its_audits(stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(4)
    before = await stage.report("alert")
    for _ in range(160):
        logprob = -4 * chance.random()
        await stage.ask("alert", logprob, "yes" if chance.random() < 1 + logprob / 8 else "no")

    async def audited() -> bool:
        found = await stage.report("alert")
        return bool(found["requests"] - before["requests"] == 160)

    await eventually(audited)
    admin = ["--admin-url", stage.gateway.admin, "--admin-key", ADMIN_KEY]
    assert await asyncio.to_thread(main, ["report", "cascade", "--route", "alert", *admin]) == 0
    assert "accepted answers" in capsys.readouterr().out
    out = tmp_path / "made.json"
    cost = ["--cost", "small=1,large=9", "--epsilon", "0.3", "--output", "json", "--out", str(out)]
    assert await asyncio.to_thread(main, ["calibrate", "cascade", "--from", "records", "--route", "alert", *cost, *admin]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "Quality is agreement" in report["lines"]
    assert report["rows"]["train"] + report["rows"]["calibrate"] >= 160
    assert calibrated.read(out.read_bytes()).binding == calibrated.Binding("small", "calibrated", 24, "content", "logprobs")
