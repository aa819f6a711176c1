"""One worker process under a controller that is the test: policies come down the link, records go up."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace

from gateway import settings as process_settings
from gateway.link.messages import Ack, ExchangeRecord, Prepare, Prepared, Records, Swap, Swapped, Up
from gateway.link.server import LinkServer, Worker
from gateway.link.unix import socket_path
from gateway.settings import Settings
from gateway.worker import Worker as WorkerProcess
from policies.load import encode, load
from tests.e2e.gateway import chat, said
from tests.standin import Conversation, chunk, fails, scored, speaks, standin

POLICY = """
version: 1
server: {{drain: 5s}}
backends:
  - {{name: small, kind: openai, replicas: ["{url}"], model: tiny}}
  - {{name: sure, kind: openai, replicas: ["{url}"], model: tiny, evidence: logprobs}}
routes:
  - {{name: main, matches: [{{models: [chat]}}], backend: small}}
  - name: accepted
    matches: [{{models: [accepted]}}]
    cascade: {{stages: [{{backend: sure}}], last: small, audit: {{accepted_percent: 100}}}}
  - name: deferred
    matches: [{{models: [deferred]}}]
    cascade:
      stages: [{{backend: sure, hold: {{tokens: 1}}, defer_when: {{score: mean_logprob, below: -0.05}}}}]
      last: small
      audit: {{deferred_percent: 100}}
"""


class Control:
    """What the controller does, as far as one worker needs it."""

    def __init__(self, state_dir: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.link = LinkServer(socket_path(str(state_dir)), on_hello=self._hello, on_message=self._message, on_gone=lambda worker: None)
        self.records: asyncio.Queue[ExchangeRecord] = asyncio.Queue()
        self.said: asyncio.Queue[Up] = asyncio.Queue()
        self.here = asyncio.Event()

    def _hello(self, worker: Worker) -> None:
        self.here.set()

    def _message(self, worker: Worker, message: Up) -> None:
        if isinstance(message, Records):
            for record in message.records:
                self.records.put_nowait(record)
            worker.send(Ack(message.sequence))
        else:
            self.said.put_nowait(message)

    async def hear(self, kind: type) -> Up:
        async with asyncio.timeout(20):
            while True:
                message = await self.said.get()
                if isinstance(message, kind):
                    return message

    async def put_in_force(self, text: str) -> str:
        loaded = load(text.encode(), name="policy.yaml", read=lambda path: b"", env={})
        self.link.broadcast(Prepare(loaded.version, encode(loaded.policy), ""))
        prepared = await self.hear(Prepared)
        assert isinstance(prepared, Prepared)
        assert prepared.error == ""
        self.link.broadcast(Swap(loaded.version))
        await self.hear(Swapped)
        return loaded.version


@asynccontextmanager
async def worker(tmp_path: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, Control]]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        control = Control(tmp_path, listener.getsockname()[1])
        await control.link.start()
        settings = Settings(policy="", state_dir=str(tmp_path))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.worker", "--index", "0", "--data-fd", str(listener.fileno())),
            pass_fds=[listener.fileno()],
            env={**os.environ, process_settings.ENVIRONMENT_VARIABLE: process_settings.encode(settings)},
        )
    try:
        async with asyncio.timeout(20):
            await control.here.wait()
        yield process, control
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await control.link.close()


async def test_it_serves_what_the_link_brings_and_reports_it(tmp_path: Path) -> None:
    async with worker(tmp_path) as (_, control), standin(speaks("one two")) as backend, httpx.AsyncClient(base_url=control.url) as client:
        early = asyncio.create_task(client.post("/v1/chat/completions", json=chat()))
        waited, _ = await asyncio.wait({early}, timeout=0.2)
        assert not waited, "before it has a policy it leaves connections to those that have one"
        version = await control.put_in_force(POLICY.format(url=backend.url))
        assert (await early).status_code == 200
        assert (await client.get("/health/ready")).status_code == 200
        answer = await client.post("/v1/chat/completions", json=chat(stream=True))
        assert said(answer.content).split() == ["one", "two"]
        first, record = [await asyncio.wait_for(control.records.get(), 10) for _ in range(2)]
        assert first.exchange_id == (await early).headers["x-headgate-exchange-id"]
        assert (record.exchange_id, record.policy_version) == (answer.headers["x-headgate-exchange-id"], version)
        assert (record.code, record.route, record.calls[0].result) == (200, "main", "ok")


async def test_sigterm_lets_a_stream_end_and_hands_its_record_over(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def slow(c: Conversation) -> None:
        await c.start_stream()
        await c.event(chunk("first"))
        await go_on.wait()
        await c.event(chunk(" last", "stop"))
        await c.end_stream()

    async with worker(tmp_path) as (process, control), standin(slow) as backend, httpx.AsyncClient(base_url=control.url) as client:
        await control.put_in_force(POLICY.format(url=backend.url))
        async with client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as answer:
            pieces = answer.aiter_bytes()
            assert b"first" in await anext(pieces)
            process.send_signal(signal.SIGTERM)
            go_on.set()
            rest = b"".join([piece async for piece in pieces])
        assert b" last" in rest
        assert rest.endswith(b"data: [DONE]\n\n")
        record = await asyncio.wait_for(control.records.get(), 10)
        assert record.code == 200
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_sigterm_before_the_first_policy_ends_it(tmp_path: Path) -> None:
    async with worker(tmp_path) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_a_worker_counts_whom_it_turns_away_and_how_late_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.worker.LAG_PERIOD_S", 0.02)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    worker = WorkerProcess(Settings(policy="", state_dir=str(tmp_path)), 0, listener)
    worker.server.limits = replace(worker.server.limits, connections_max=1)
    running = asyncio.create_task(worker.run(None))

    def late(at_least: float) -> int:
        """Timers that were so late."""
        found = worker.counters.histogram("headgate_event_loop_lag_seconds")
        return sum(count for count, bound in zip(found.counts, (*found.bounds, float("inf")), strict=True) if bound > at_least)

    async with asyncio.timeout(20):
        loaded = load(POLICY.format(url="http://127.0.0.1:1").encode(), name="policy.yaml", read=lambda path: b"", env={})
        worker._on_message(Prepare(loaded.version, encode(loaded.policy), ""))
        worker._on_message(Swap(loaded.version))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health/live HTTP/1.1\r\nhost: g\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        turned_away, other = await asyncio.open_connection("127.0.0.1", port)
        await turned_away.read()
        assert worker.counters.counter("headgate_connections_refused_total").value == 1
        assert worker.counters.counter("headgate_connections_open").value == 0, "a gauge is brought up to date when it is sent"
        assert next(s.value for s in worker._totals() if s.metric == "headgate_connections_open") == 1
        other.close()
        writer.close()
        before = late(0.25)
        time.sleep(0.6)  # noqa: ASYNC251 - what must never happen
        while late(0.25) == before:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait({running})
    worker.server.close()
    await worker.link.close()
    listener.close()


async def test_exchanges_leave_nothing_to_the_collector(tmp_path: Path) -> None:
    """It runs once in thousands of exchanges: what a cycle holds until then is thousands of request bodies."""

    async def breaks(c: Conversation) -> None:
        await c.start_stream()
        await c.event(chunk("first"))
        c.reset()

    async def hangs(c: Conversation) -> None:
        await c.start_stream()
        await c.event(chunk("first"))
        await c.until_closed()

    listener = socket.create_server(("127.0.0.1", 0))
    worker = WorkerProcess(Settings(policy="", state_dir=str(tmp_path)), 0, listener)
    running = asyncio.create_task(worker.run(None))
    async with standin(speaks("one two")) as backend, httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
        loaded = load(POLICY.format(url=backend.url).encode(), name="policy.yaml", read=lambda path: b"", env={})
        worker._on_message(Prepare(loaded.version, encode(loaded.policy), ""))
        worker._on_message(Swap(loaded.version))
        gc.unfreeze()
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for script in (speaks("one two"), fails(500), fails(400), breaks):
                backend.script = script
                for stream in (True, False):
                    await client.post("/v1/chat/completions", json=chat(stream=stream))
            await client.post("/v1/chat/completions", json=chat(model="unknown"))
            backend.script = scored("one two", -0.1)
            for model in ("accepted", "deferred"):
                for stream in (True, False):
                    await client.post("/v1/chat/completions", json=chat(model=model, stream=stream))
                    while worker.audits.running:
                        await asyncio.sleep(0.01)
                    result = worker.counters.counter("headgate_audits_total", model, f"audit_{model}", "agreed")
                    assert result.value == (1 if stream else 2)
            backend.script = hangs
            async with client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as answer:
                await anext(answer.aiter_bytes())
            while worker.in_flight:
                await asyncio.sleep(0.01)
            gc.collect()
            left = {type(each).__qualname__ for each in gc.garbage if type(each).__module__.startswith(("gateway.", "policies."))}
        finally:
            gc.set_debug(0)
            gc.enable()
            gc.garbage.clear()
        assert left == set()
    running.cancel()
    await asyncio.wait({running})
    worker.server.close()
    await worker.link.close()
    listener.close()
