"""A guard whose texts are scored by a process of its own, over real sockets: one whose detector needs a sentence encoder, and one of
which a text would hold up the worker. The process may be late, dead or wrong.

The encoder is tiny and made up, in a package of the real one's name.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from gateway.scoring.pretrained import PACKAGE
from policies.ood.artifact import dumps, loads
from policies.ood.energy import Scorer
from tests.e2e.gateway import Gateway, chat, children, eventually, gateway
from tests.policies.ood.generated import examples
from tests.policies.ood.generated import small as fitted
from tests.policies.ood.tiny import VOCABULARY, slow_artifact, weights
from tests.standin import speaks, standin

PLAIN = """
version: 1
backends:
  - {name: small, kind: openai, replicas: [SMALL], model: tiny}
routes:
  - {name: main, matches: [{models: [chat]}], backend: small}
"""
GUARDED = """
version: 1
backends:
  - {name: small, kind: openai, replicas: [SMALL], model: tiny}
detectors:
  - {name: domain, artifact: d.npz}
routes:
  - name: main
    matches: [{models: [chat]}]
    guard: {detector: domain, when_ood: flag, when_unscored: refuse}
    backend: small
"""
TEXT = examples(1, 7)[0].text
ELSEWHERE = "zzzz quasar glacier mitochondria sonnet volcano"


def installed(folder: Path) -> dict[str, str]:
    """An environment in which the package is there."""
    model = folder / PACKAGE / "model"
    model.mkdir(parents=True)
    (folder / PACKAGE / "__init__.py").write_text("raise RuntimeError\n")
    (model / "model.safetensors").write_bytes(weights())
    (model / "vocab.txt").write_text(VOCABULARY, "utf-8")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


@asynccontextmanager
async def running(policy: str, packages: Path, artifact: bytes | None = None) -> AsyncIterator[Gateway]:
    files = {"d.npz": slow_artifact() if artifact is None else artifact}
    async with (
        standin(speaks("hello")) as small,
        gateway(policy.replace("SMALL", small.url), "--workers", "1", environment=installed(packages), files=files) as found,
    ):
        yield found


async def ask(found: Gateway, text: str = TEXT) -> httpx.Response:
    async with found.client() as client:
        return await client.post("/v1/chat/completions", json=chat(content=text))


async def scored(found: Gateway, text: str = TEXT) -> str:
    """`x-headgate-ood` once it is not "unscored": on a busy machine the deadline may be missed."""

    async def look() -> str:
        ood = (await ask(found, text)).headers["x-headgate-ood"]
        return ood if ood != "unscored" else ""

    return str(await eventually(look, 30))


async def test_it_is_asked_and_what_it_finds_is_told(tmp_path: Path) -> None:
    async with running(GUARDED, tmp_path) as found:
        assert len(found.pids("scoring")) == 1
        assert await scored(found) == "false"
        assert await scored(found, ELSEWHERE) == "true"
        answer = await ask(found, " ")
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "not_scored")

        async def counted() -> bool:
            return await found.count("headgate_scoring_requests_total") >= 2 and await found.count("headgate_scoring_seconds_count") >= 2

        await eventually(counted)


async def test_while_it_hangs_or_is_dead_requests_are_unscored_and_soon_scored_again(tmp_path: Path) -> None:
    async with running(GUARDED, tmp_path) as found:
        assert await scored(found) == "false"
        (guardian,) = found.pids("scoring")
        (pid,) = children(guardian)
        os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        answer = await ask(found)
        assert (answer.status_code, answer.headers["x-headgate-ood"]) == (503, "unscored")
        assert 0.2 < time.monotonic() - started < 10
        os.kill(pid, signal.SIGCONT)
        assert await scored(found) == "false"
        os.kill(pid, signal.SIGKILL)
        answer = await ask(found)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_scored")
        assert await scored(found) == "false"
        assert found.pids("scoring") != [guardian]


async def test_a_reload_brings_it_and_one_that_it_cannot_have_changes_nothing(tmp_path: Path) -> None:
    async with running(PLAIN, tmp_path) as found:
        assert found.pids("scoring") == [], "nobody needs it"
        assert "x-headgate-ood" not in (await ask(found)).headers
        address = found.policy.read_text().split("replicas: [")[1].split("]")[0]
        before = (await found.ask_admin("/status"))["version"]
        await found.write_policy(GUARDED.replace("SMALL", address))

        async def version() -> str:
            now = (await found.ask_admin("/status"))["version"]
            return str(now) if now != before else ""

        guarded = await eventually(version, 40)
        assert await scored(found) == "false"

        fitted = loads(slow_artifact())
        facts = type(fitted.facts)(**{name: getattr(fitted.facts, name) for name in fitted.facts.__struct_fields__} | {"encoder": "0" * 64})
        artifact = found.policy.parent / "d.npz"
        artifact.write_bytes(dumps(type(fitted)(fitted.head, fitted.calibration, facts)))

        async def refused() -> bool:
            return any("detector domain: the detector was fitted with another sentence encoder" in line for line in found.log)

        await eventually(refused, 40)
        assert (await found.ask_admin("/status"))["version"] == guarded
        assert await scored(found) == "false"


async def test_a_text_that_would_hold_up_the_worker_is_scored_as_offline_by_the_process(tmp_path: Path) -> None:
    detector = fitted().detector
    scorer = Scorer(detector.head)
    policy = GUARDED.replace("artifact: d.npz", "artifact: d.npz, threshold: {score: 1e9}")
    numbers = " ".join(map(str, range(100_000, 100_140)))
    async with running(policy, tmp_path, dumps(detector)) as found:
        for text in (TEXT, numbers, TEXT, numbers):
            assert await scored(found, text) == "false"

        offline = {scorer.score(text).energy for text in (TEXT, numbers)}

        async def recorded() -> bool:
            findings = [record.findings for record in found.stored()]
            return {each.assessment.energy for each in findings if each and each.assessment and each.ood == "false"} == offline

        await eventually(recorded)
        assert await found.count("headgate_scoring_requests_total") >= 2
        # Without the process the others are scored as ever, and a text of no length but new words is unscored.
        (guardian,) = found.pids("scoring")
        os.kill(children(guardian)[0], signal.SIGSTOP)
        try:
            assert (await ask(found)).headers["x-headgate-ood"] == "false"
            answer = await ask(found, numbers)
            assert (answer.status_code, answer.headers["x-headgate-ood"]) == (503, "unscored")
        finally:
            os.kill(children(guardian)[0], signal.SIGCONT)
        assert await scored(found, numbers) == "false"
