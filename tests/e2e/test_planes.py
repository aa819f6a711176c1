"""Each process of a gateway is killed or stopped while clients are being served: what fails, what does not, what adds up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tests.e2e.gateway import Gateway, chat, children, eventually, gateway, said
from tests.e2e.load import Asked, died, load, memory_bytes
from tests.standin import Standin, speaks, standin

POLICY = """
version: 1
server: {{drain: 5s}}
backends:
  - {{name: small, kind: openai, replicas: ["{url}"], model: tiny}}
routes:
  - {{name: main, matches: [{{models: [chat]}}], backend: small}}
"""

REPORTED_S = 2.0
"""A worker reports its counters once a second; on a busy machine a little later."""
SPILL_BYTES = 64 * 1024 * 1024
"""What a worker keeps of records at the most: `gateway.link.messages.OutboxLimits.bytes_max`."""


@asynccontextmanager
async def two_workers(policy: str = POLICY) -> AsyncIterator[tuple[Gateway, Standin]]:
    async with standin(speaks("hello from here")) as backend, gateway(policy.format(url=backend.url), "--workers", "2") as running:
        yield running, backend


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP, and SIGCONT at the end."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def workers_connected(running: Gateway, count: int) -> None:
    async def look() -> bool:
        try:
            status = await running.ask_admin("/status")
        except httpx.HTTPError:
            return False
        return [each["version"] for each in status["workers"]] == [status["version"]] * count

    await eventually(look, 30)


async def counts(running: Gateway, expected: int) -> None:
    """Wait until the metrics have counted so many requests, then see that they do not count on."""

    async def look() -> bool:
        return await running.count("headgate_requests_total") >= expected

    with contextlib.suppress(TimeoutError):
        await eventually(look)
    assert await running.count("headgate_requests_total") == expected


async def test_a_killed_controller_costs_no_request_no_record_and_no_count() -> None:
    async with two_workers() as (running, _):
        (before,) = running.pids("controller")
        async with load(running.data) as clients:
            await clients.more(30)
            os.kill(before, signal.SIGKILL)
            await clients.more(30)
            await running.wait_pids("controller", other_than=[before])
            await workers_connected(running, 2)
            await clients.more(30)
        clients.all_good()
        await running.until_stored(clients.exchange_ids)
        assert len(running.stored()) == len(clients.asked), "exactly once"
        await counts(running, len(clients.asked))
        restarts = (await running.scrape())['headgate_worker_restarts_total{process="controller"}']
        assert restarts == 1
        assert len(running.pids("worker")) == 2


async def test_a_stopped_controller_slows_no_request_and_keeps_no_worker_from_serving() -> None:
    async with two_workers() as (running, _):
        (controller,) = running.pids("controller")
        first, second = running.pids("worker")
        async with load(running.data, keep=False) as clients:
            await clients.more(40)
            usual = slowest(clients.done)
            with stopped(controller):
                since = time.monotonic()
                await clients.more(100)
                assert slowest([each for each in clients.done if each.started > since]) < usual + 1.0
                # A worker that comes meanwhile has no policy yet: it must leave the connections to the other.
                os.kill(second, signal.SIGKILL)
                gone_at = await died(second)
                await running.wait_pids("worker", other_than=[first, second])
                await clients.more(100)
            await workers_connected(running, 2)
            await clients.more(40)
        in_flight = [each for each in clients.bad if each.started <= gone_at]
        assert clients.bad == in_flight, [str(each) for each in clients.bad if each not in in_flight]
        assert not any(each.status for each in clients.bad if not each.broke)
        # Who was killed may have told nobody of what it had under way while nobody listened, even if its client has read the end since.
        at_risk = [each for each in clients.done if each.started <= gone_at and each.ended >= since]
        await running.until_stored([each.exchange_id for each in clients.done if each.good and each not in at_risk])


async def test_without_a_worker_that_has_a_policy_requests_wait() -> None:
    async with standin(speaks("hello")) as backend, gateway(POLICY.format(url=backend.url)) as running, running.client() as client:
        (controller,) = running.pids("controller")
        workers = running.pids("worker")
        with stopped(controller):
            os.kill(workers[0], signal.SIGKILL)
            await running.wait_pids("worker", other_than=workers)
            waiting = asyncio.create_task(client.post("/v1/chat/completions", json=chat()))
            done, _ = await asyncio.wait({waiting}, timeout=1)
            assert not done
        assert (await waiting).status_code == 200


def slowest(asked: list[Asked]) -> float:
    return max(each.ended - each.started for each in asked)


async def test_records_that_no_controller_takes_are_bounded_and_counted() -> None:
    policy = POLICY + "records: {{content: {{store: true}}}}\n"
    async with standin(speaks("yes")) as backend, gateway(policy.format(url=backend.url)) as running, running.client() as client:
        (controller,) = running.pids("controller")
        (worker,) = running.pids("worker")
        body = chat(content="x" * 260_000)  # of which a record keeps 256 KiB
        await client.post("/v1/chat/completions", json=body)
        before = memory_bytes(worker)
        with stopped(controller):
            answers = [await client.post("/v1/chat/completions", json=body) for _ in range(299)]
            grown = memory_bytes(worker) - before
        assert {answer.status_code for answer in answers} == {200}
        assert SPILL_BYTES / 2 < grown < 2 * SPILL_BYTES

        async def added_up() -> bool:
            return await running.count("headgate_records_stored_total") + await running.count("headgate_records_dropped_total") == 300

        await eventually(added_up, 20)
        samples = await running.scrape()
        assert 30 <= samples['headgate_records_dropped_total{why="spill_full"}'] <= 60
        assert len(running.stored()) == samples["headgate_records_stored_total"]


async def test_a_killed_worker_costs_only_what_it_had_in_hand() -> None:
    """Guaranteed: requests that another worker holds, and connections that wait in the listening socket's queue, do not notice; of
    what the dead one had answered, records and counts are lost of its last moments (it hands them over every 50 ms)."""
    async with two_workers() as (running, _):
        killed, other = running.pids("worker")
        async with load(running.data, clients=8) as kept, load(running.data, clients=4, keep=False) as fresh:
            await kept.more(60)
            await fresh.more(30)
            killed_at = time.monotonic()
            os.kill(killed, signal.SIGKILL)
            gone_at = await died(killed)
            await kept.more(30)
            await fresh.more(30)
            (now,) = set(await running.wait_pids("worker", other_than=[killed, other])) - {other}
            await workers_connected(running, 2)
            await kept.more(60)
            await fresh.more(30)
        bad = kept.bad + fresh.bad
        assert all(each.started <= gone_at and each.broke for each in bad), [str(each) for each in bad]
        assert len(bad) <= 12, "one for each client at the most"
        done = kept.done + fresh.done
        good = [each for each in done if each.good]
        # Also of what a client has read to its end only since.
        last_moments = [each for each in good if each.ended >= killed_at - 0.5 and each.started <= gone_at]
        sure = {each.exchange_id for each in good if each not in last_moments}
        await running.until_stored(sure)
        answered = {each.exchange_id for each in done if each.exchange_id}
        assert sum(record.exchange_id not in answered for record in running.stored()) <= len(bad), "exactly once"
        await asyncio.sleep(REPORTED_S)
        counted = await running.count("headgate_requests_total")
        assert len(good) - len(last_moments) <= counted <= len(done)
        await running.metric('headgate_worker_restarts_total{process="worker"}', 1)
        await running.metric("headgate_snapshots_alive", 2)  # one for each that lives: what the dead one held is not shown for ever
        # What came after it is served like any other.
        assert now in {each["pid"] for each in (await running.ask_admin("/status"))["workers"]}


async def test_a_killed_supervisor_takes_the_gateway_down_in_order_and_a_new_one_takes_over(tmp_path: Path) -> None:
    async with standin(speaks("hello from here")) as backend:
        policy = POLICY.format(url=backend.url)
        async with gateway(policy, "--workers", "2", folder=str(tmp_path), check=False) as first:
            port = first.data.rpartition(":")[2]
            async with load(first.data) as clients:
                await clients.more(20)
                pids = children(first.process.pid)
                clients.stopping = True
                first.process.kill()
            assert await first.gone() == -signal.SIGKILL
            await asyncio.gather(*map(died, pids))
            good = [each.exchange_id for each in clients.done if each.good]
            # A request that had been accepted is answered: only one that came too late finds nobody.
            assert all(not each.status for each in clients.bad)
            assert set(good) <= {record.exchange_id for record in first.stored()}
        with socket.create_server(("127.0.0.1", int(port))):
            pass
        async with gateway(policy, "--port", port, folder=str(tmp_path)) as second, second.client() as client:
            assert second.data.endswith(port)
            known = await second.ask_admin("/exchanges?limit=1000")
            assert {each["exchange_id"] for each in known["exchanges"]} >= set(good)
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200


async def test_the_embedded_pair_answers_and_is_started_again_when_it_dies() -> None:
    policy = """
version: 1
backends:
  - {name: small, kind: embedded, model: specialist, readiness: {every: 500ms}}
  - {name: big, kind: embedded, model: generalist, readiness: {every: 500ms}}
routes:
  - {name: main, matches: [{models: [chat]}], failover: [small, big]}
  - {name: large, matches: [{models: [large]}], backend: big}
"""
    async with gateway(policy) as running, running.client() as client:

        async def ask(model: str, **more: object) -> httpx.Response:
            question = chat(model, "Where is my parcel?", max_tokens=8, temperature=0, **more)
            return await client.post("/v1/chat/completions", json=question)

        async def answers() -> bool:
            return [(await ask(model)).status_code for model in ("chat", "large")] == [200, 200]

        await eventually(answers, 30)
        for model, backend in (("chat", "small"), ("large", "big")):
            whole, streamed = await ask(model), await ask(model, stream=True)
            assert whole.headers["x-headgate-backend"] == streamed.headers["x-headgate-backend"] == backend
            assert said(streamed.content) == whole.json()["choices"][0]["message"]["content"] != ""
        (keeper,) = running.pids("foreign")
        (engine,) = children(keeper)
        os.kill(engine, signal.SIGKILL)
        await running.wait_pids("foreign", other_than=[keeper])
        await eventually(answers, 30)
        await running.metric('headgate_worker_restarts_total{process="embedded"}', 1)
