"""The policy is changed under load, spoilt, put right and rolled back."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from policies.document import TEXT_BYTES_MAX
from policies.load import load as load_policy
from tests.e2e.gateway import ADMIN_KEY, Gateway, chat, eventually, gateway
from tests.e2e.load import descriptors, load
from tests.standin import Conversation, speaks, standin

RELOADS = 200
WATCHED_S = 10.0
"""The watch looks once a second and wants to see the same twice."""


def policy(url: str, *, moving: str = "moving", routes: tuple[str, ...] = (), price: int = 1, first_token: int = 20) -> str:
    """`chat` goes to a backend that no reload touches, `other` to one that every reload may."""
    others = "".join(f"  - {{name: {name}, matches: [{{models: [{name}]}}], backend: {moving}}}\n" for name in routes)
    return f"""
version: 1
server: {{drain: 5s}}
backends:
  - {{name: fixed, kind: openai, replicas: ["{url}"], model: tiny, readiness: {{every: 1h}}}}
  - name: {moving}
    kind: openai
    replicas: ["{url}"]
    model: tiny
    readiness: {{every: 1h}}
    timeouts: {{first_token: {first_token}s}}
    price: {{input: {price}}}
routes:
  - {{name: main, matches: [{{models: [chat]}}], backend: fixed}}
  - {{name: other, matches: [{{models: [other]}}], backend: {moving}}}
{others}"""


def variant(url: str, number: int) -> str:
    """The policy of the so-manieth reload: a backend comes and goes under a new name, routes come and go, a timeout and a price
    change."""
    return policy(
        url,
        moving=f"moving-{number // 2 % 3}",
        routes=tuple(f"extra-{index}" for index in range(number % 4)),
        price=1 + number,
        first_token=20 + number % 3,
    )


def version_of(text: str) -> str:
    return load_policy(text.encode(), name="policy.yaml", read=lambda path: b"", env={}).version


async def in_force(running: Gateway, text: str) -> None:
    """Wait until this is the policy of the controller and of every worker."""
    version = version_of(text)

    async def look() -> bool:
        status = await running.ask_admin("/status")
        return {status["version"], *(each["version"] for each in status["workers"])} == {version}

    await eventually(look, WATCHED_S)


async def test_two_hundred_reloads_fail_no_request_and_leave_nothing_behind() -> None:
    peers: dict[str, set[int]] = {}

    async def notes_peer(c: Conversation) -> None:
        peers.setdefault(str(c.asked.json["messages"][0]["content"]), set()).add(c.writer.get_extra_info("peername")[1])
        await speaks("hello from here")(c)

    async with standin(notes_peer) as backend, gateway(policy(backend.url), "--workers", "2") as running:
        first = version_of(policy(backend.url))
        workers = running.pids("worker")
        fixed, other = {"content": "fixed"}, {"content": "other", "model": "other"}
        async with load(running.data, clients=4, body=fixed) as warm, load(running.data, clients=4, body=other):
            await warm.more(40)
        before = await settled_descriptors(workers)
        peers.clear()
        since: dict[str, float] = {first: 0.0}
        """When each version could come into force at the earliest."""
        until: dict[str, float] = {}
        """When at the latest the next one was in force everywhere."""
        async with (
            load(running.data, clients=4, pause_s=0.02, body=fixed) as steady,
            load(running.data, clients=4, pause_s=0.02, body=other) as moved,
        ):
            previous = first
            for number in range(1, RELOADS + 1):
                text = variant(backend.url, number)
                version = version_of(text)
                since[version] = time.monotonic()
                await running.write_policy(text)
                if number % 50 == 10:
                    running.process.send_signal(signal.SIGHUP)
                    await in_force(running, text)
                elif number % 50 == 20:  # the watch finds it
                    await in_force(running, text)
                elif (outcome := await running.ask_admin("/reload", "POST"))["result"] != "ok":
                    # The watch has seen the same change, and was first or wants to be last.
                    assert outcome["result"] in ("superseded", "unchanged")
                    await in_force(running, text)
                until[previous] = time.monotonic()
                previous = version
        until[previous] = time.monotonic()
        for each in (steady, moved):
            each.all_good()
            assert len(each.done) > RELOADS / 2
            assert len({asked.version for asked in each.done}) > RELOADS / 10
            wrong = [asked for asked in each.done if not (since[asked.version] <= asked.headed and asked.started <= until[asked.version])]
            assert wrong == []
        assert len(peers["fixed"]) <= 2 * 4, "its connections survived: at most one a client and worker"
        await running.metric("headgate_snapshots_alive", 2)
        assert await settled_descriptors(workers, before + 4) <= before + 4
        assert running.pids("worker") == workers


async def settled_descriptors(pids: list[int], below: int = 0) -> int:
    """Open files of these processes together, once they have closed what they are about to."""
    deadline = time.monotonic() + 3
    while (count := sum(map(descriptors, pids))) > below and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    return count


async def test_what_is_wrong_with_a_watched_file_is_told_and_changes_nothing() -> None:
    async with standin(speaks("hello")) as backend, gateway(policy(backend.url)) as running, running.client() as client:
        good = version_of(policy(backend.url))
        half = policy(backend.url, price=2)
        spoilt = {
            "empty": (lambda: running.policy.write_bytes(b""), ""),
            "binary": (lambda: running.policy.write_bytes(bytes(range(256))), ""),
            "huge": (lambda: running.policy.write_bytes(b"#" * (TEXT_BYTES_MAX + 1)), "more than"),
            "half": (lambda: running.policy.write_text(half[: len(half) // 2]), ""),
            "wrong": (lambda: running.policy.write_text(half.replace("backend: fixed", "backend: fixd")), "fixd"),
            "deleted": (lambda: running.policy.unlink(), "No such file"),
        }
        said: list[str] = []
        for name, (spoil, words) in spoilt.items():
            spoil()
            if name in ("empty", "binary", "huge"):  # the others are for the watch to find
                running.process.send_signal(signal.SIGHUP)
            problems = await rejected(running, other_than=said[-1:])
            said.append(problems)
            assert words in problems, name
            answer = await client.post("/v1/chat/completions", json=chat())
            assert (answer.status_code, answer.headers["x-headgate-policy-version"]) == (200, good), name
        samples = await running.scrape()
        assert samples["headgate_policy_rejected"] == 1
        assert samples['headgate_policy_reloads_total{result="rejected"}'] == len(spoilt)
        assert samples[f'headgate_policy_info{{version="{good}"}}'] == 1
        assert sum("policy rejected:" in line for line in running.log) >= len(spoilt)
        assert [each["alert"] for each in (await running.ask_admin("/status"))["alerts"]] == ["policy_rejected"]

        running.policy.write_text(half)
        await in_force(running, half)
        assert (await running.scrape())["headgate_policy_rejected"] == 0
        assert (await running.ask_admin("/status"))["rejected"] is None

        # Written in two halves by somebody slow: never seen as a policy.
        last = policy(backend.url, price=3)
        with running.policy.open("w") as file:
            for part in (last[:200], last[200:]):
                file.write(part)
                file.flush()
                await asyncio.sleep(0.5)
        await in_force(running, last)
        assert (await running.scrape())['headgate_policy_reloads_total{result="rejected"}'] == len(spoilt)


async def rejected(running: Gateway, other_than: list[str]) -> str:
    """What is wrong with the file, once that is something new."""

    async def look() -> str:
        status = await running.ask_admin("/status")
        told = " ".join(each["text"] for each in (status["rejected"] or {"problems": []})["problems"])
        return "" if told in other_than else told

    found = await eventually(look, WATCHED_S)
    assert isinstance(found, str)
    return found


async def test_a_rollback_holds_across_a_restart_until_the_file_changes(tmp_path: Path) -> None:
    async with standin(speaks("hello")) as backend:
        one, two, three = (policy(backend.url, price=price) for price in (1, 2, 3))
        async with gateway(one, folder=str(tmp_path)) as running, running.client() as client:
            await running.write_policy(two)
            assert (await running.ask_admin("/reload", "POST"))["version"] == version_of(two)
            command = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway.cli.main", "rollback", "--admin-url", running.admin),
                env={**os.environ, "HEADGATE_ADMIN_KEY": ADMIN_KEY},
                stdout=asyncio.subprocess.PIPE,
            )
            told, _ = await asyncio.wait_for(command.communicate(), 30)
            assert (command.returncode, told.decode()) == (0, f"policy {version_of(one)} is in force\n")
            answer = await client.post("/v1/chat/completions", json=chat())
            assert answer.headers["x-headgate-policy-version"] == version_of(one)
            assert (await running.scrape())["headgate_policy_pinned"] == 1
            assert (await running.ask_admin("/reload", "POST"))["result"] == "pinned"
        async with gateway(two, folder=str(tmp_path)) as running, running.client() as client:
            answer = await client.post("/v1/chat/completions", json=chat())
            assert answer.headers["x-headgate-policy-version"] == version_of(one)
            assert (await running.ask_admin("/status"))["pinned"] is True
            await running.write_policy(three)
            await in_force(running, three)
            assert (await running.ask_admin("/status"))["pinned"] is False


async def test_a_new_backend_that_is_not_ready_delays_the_swap_and_a_newer_policy_ends_the_wait() -> None:
    """That it goes in unready in the end is shown where the wait can be set: tests/gateway/control/test_reload.py."""
    async with standin(speaks("hello")) as backend, standin(speaks("hello")) as new, gateway(policy(backend.url)) as running:
        new.probes_ok = False
        before = version_of(policy(backend.url))
        waiting = asyncio.create_task(reload_to(running, policy(backend.url).replace(f'["{backend.url}"]', f'["{new.url}"]')))
        await eventually(lambda: told(running, "not ready"))
        async with load(running.data, clients=2) as clients:
            await clients.more(10)
            assert {each.version for each in clients.done} == {before}
            assert not waiting.done()
            better = policy(backend.url, price=5)
            assert (await reload_to(running, better))["result"] == "ok"
            assert (await waiting)["result"] == "superseded"
            await clients.more(10)
        clients.all_good()
        assert clients.done[-1].version == version_of(better)


async def test_a_first_policy_whose_backend_is_not_there_goes_in_unready_and_recovers() -> None:
    async with standin(speaks("hello")) as backend:
        await backend.stop()
        async with gateway(policy(backend.url)) as running, running.client() as client:
            answer = await client.post("/v1/chat/completions", json=chat())
            assert (answer.status_code, answer.json()["error"]["type"]) == (503, "server_error")
            assert any("went in unready" in line for line in running.log)
            await backend.start()

            async def answers() -> bool:
                return (await client.post("/v1/chat/completions", json=chat())).status_code == 200

            await eventually(answers, 30)


async def told(running: Gateway, words: str) -> bool:
    return any(words in line for line in running.log)


async def reload_to(running: Gateway, text: str) -> Any:
    await running.write_policy(text)
    return await running.ask_admin("/reload", "POST")
