"""What `headgate explain` foretells is what the gateway then does: both drive the same plan."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.cli.main import main
from tests.e2e.gateway import ADMIN_KEY, chat
from tests.e2e.site import KEYS, Site, site
from tests.standin import Conversation, Script, fails, speaks

POLICY = """
version: 1
backends:
  - {name: small, kind: ollama, replicas: ["SMALL"], model: tiny, ALONE}
  - {name: big, kind: openai, replicas: ["BIG"], model: huge, ALONE}
segments:
  - {name: tenant, from: "key:tenant", values: [acme]}
  - {name: prompt_length, from: prompt_chars, edges: [20]}
routes:
  - {name: gold, matches: [{models: [chat], headers: {x-tier: [gold]}}], backend: big, segments: [tenant]}
  - {name: main, matches: [{models: [chat]}], failover: [small, big], segments: [tenant, prompt_length], unit: [body:user, key]}
  - {name: rest, matches: [{keys: {tenant: [acme]}}], failover: [big, small]}
keys:
  - {name: acme, sha256: "${env:ACME_SHA256}", labels: {tenant: acme}}
  - {name: root, sha256: "${env:ROOT_SHA256}", routes: [main, rest]}
"""
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Site]:
    async with site(POLICY) as found:
        yield found


async def hangs_up(c: Conversation) -> None:
    c.reset()


async def garbles(c: Conversation) -> None:
    await c.json({"what": "is this"})


HOW: dict[str, Script] = {
    "500": fails(500),
    "503": fails(503),
    "429": fails(429),
    "400": fails(400),
    "401": fails(401),
    "404": fails(404),
    "closed": hangs_up,
    "protocol": garbles,
}
REQUESTS: list[tuple[dict[str, Any], str, dict[str, str]]] = [
    (chat(), "acme", {}),
    (chat(stream=True, user="u-1", content="x" * 30), "root", {}),
    (chat(), "acme", {"x-tier": "gold"}),
    (chat(), "root", {"x-tier": "gold"}),
    (chat(model="anything"), "acme", {}),
    (chat(model="anything"), "root", {}),
    (chat(n=2), "acme", {}),  # what Ollama would ignore
    (chat(priority=1), "root", {"x-tier": "gold"}),
]


@pytest.mark.parametrize("failing", [{}, *({"small": how} for how in HOW), {"big": "500"}, {"small": "closed", "big": "429"}], ids=str)
async def test_it_foretells_what_happens(
    running: Site, failing: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, key in KEYS.items():
        monkeypatch.setenv(f"{name}_SHA256", sha256(key.encode()).hexdigest())
    for body, key, headers in REQUESTS:
        told = foretold(capsys, running.gateway.policy, tmp_path, body, key, headers, failing)
        running.play(*(HOW[failing[name]] if name in failing else speaks("hello") for name in ("small", "big")))
        async with running.client(key.upper()) as client:
            answer = await client.post("/v1/chat/completions", json=body, headers=headers)
        record = await running.record(answer)
        assert answer.status_code == record["code"] == told["status"], body
        assert record["policy_version"] == told["policy_version"]
        assert (record["route"] or None, record["segments"], record["unit"] or None) == (told["route"], told["segments"], told["unit"])
        assert [call["backend"] for call in record["calls"]] == [step["backend"] for step in told["steps"]]
        assert [call["result"] == "ok" for call in record["calls"]] == [step["outcome"] == "answers" for step in told["steps"]]
        if answer.status_code == 200:
            assert answer.headers["x-headgate-backend"] == told["backend"]
            assert answer.headers["x-headgate-reason"] == told["reason"]


async def test_the_commands_that_ask_a_running_gateway(
    running: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, key in KEYS.items():
        monkeypatch.setenv(f"{name}_SHA256", sha256(key.encode()).hexdigest())
    monkeypatch.setenv("HEADGATE_ADMIN_URL", running.gateway.admin)
    monkeypatch.setenv("HEADGATE_ADMIN_KEY", ADMIN_KEY)
    running.play(small=fails(500))
    async with running.client("ACME") as client:
        answer = await client.post("/v1/chat/completions", json=chat())
    exchange = (await running.record(answer))["exchange_id"]

    def says(*words: str) -> str:
        assert main([*words]) == 0
        return capsys.readouterr().out

    story = says("explain", "--exchange", exchange)
    assert exchange in story
    assert "small" in story
    assert "(status 500)" in story
    assert json.loads(says("explain", "--exchange", exchange, "--output", "json"))["backend"] == "big"
    status = json.loads(says("status", "--output", "json"))
    assert status["version"] == answer.headers["x-headgate-policy-version"]
    assert {replica["backend"] for replica in status["backends"]} == {"small", "big"}
    assert answer.headers["x-headgate-policy-version"] in says("status")
    swapped = tmp_path / "swapped.yaml"
    swapped.write_text(running.gateway.policy.read_text().replace("failover: [small, big]", "failover: [big, small]"))
    replayed = json.loads(says("diff", str(running.gateway.policy), str(swapped), "--replay", "1", "--output", "json"))
    assert replayed["moved"] == [{"requests": 1, "before": "route main, small first", "after": "route main, big first"}]
    assert main(["explain", "--exchange", "none-such"]) == 1
    assert main(["rollback", "--output", "json"]) == 1, "there is nothing before the first policy"
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.count("\n") == 2


def foretold(
    capsys: pytest.CaptureFixture[str],
    policy: Path,
    folder: Path,
    body: dict[str, Any],
    key: str,
    headers: dict[str, str],
    failing: dict[str, str],
) -> dict[str, Any]:
    request = folder / "request.json"
    request.write_text(json.dumps(body))
    options = [word for name, how in failing.items() for word in ("--fail", f"{name}={how}")]
    options += [word for name, value in headers.items() for word in ("--header", f"{name}={value}")]
    assert main(["explain", str(policy), str(request), "--key", key, "--output", "json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found
