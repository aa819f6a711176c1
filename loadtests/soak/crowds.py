"""Crowds: slow readers and writers by the hundred, thousands of open streams on one worker, more asking than there is room for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from loadtests import processes
from loadtests.chaos.clients import Client, Seen
from loadtests.chaos.site import Setup, Site, site
from loadtests.generator import quantiles
from loadtests.measure import ask_mock
from loadtests.scenarios import EVENTS
from tests.e2e.gateway import ADMIN_KEY, Gateway, eventually

RECEIVE_BUFFER = 4096
SLOW_READ = 512
SLOW_READ_S = 0.05
SLOW_WRITE_S = 0.02
WRITTEN_S = 2.0
"""A slow writer takes so long for its body."""
REPLICA_CONNECTIONS = 1_900
"""Open streams that one replica is given; the gateway opens at most 2,000 connections to an address."""
OPENED_PER_S = 400
"""Streams; all at once they would be a test of the time that a connection may take."""
SLOWED_MAX = 3.0
"""Others may be slower by this factor, and by 50 ms, on a machine that the slow ones share."""
SLOWED_MORE_S = 0.05
CROWD_S = 120.0
"""No crowd takes longer."""

POLICY = """
version: 1
backends:
  - name: mock
    kind: vllm
    replicas: [{replicas}]
    model: mock
    concurrency: {{limit: 20000, queue: 0}}
    readiness: {{every: 1h}}
    timeouts: {{first_token: 100s, between_tokens: 100s, total: 10m}}
routes:
  - {{name: chat, matches: [{{models: [mock]}}], backend: mock}}
"""


@contextlib.asynccontextmanager
async def mocks(count: int, events: int = EVENTS) -> AsyncIterator[list[int]]:
    """Mock backends; their ports."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headgate-mock-")))
        ports = [processes.free_port() for _ in range(count)]
        for port in ports:
            argv = [sys.executable, "-m", "loadtests.mock", "--port", str(port), "--chunks", str(events)]
            stack.enter_context(processes.running(argv, port, "/health", log=folder / f"{port}.log"))
        yield ports


@contextlib.asynccontextmanager
async def before_mocks(ports: list[int]) -> AsyncIterator[Gateway]:
    """A gateway with one worker."""
    with tempfile.TemporaryDirectory(prefix="headgate-crowd-", ignore_cleanup_errors=True) as folder:
        policy = Path(folder, "policy.yaml")
        policy.write_text(POLICY.format(replicas=", ".join(f'"http://127.0.0.1:{port}"' for port in ports)))  # noqa: ASYNC240
        argv = [sys.executable, "-m", "gateway.cli.main", "serve", str(policy), "--port", "0", "--admin-port", "0", "--metrics-port", "0"]
        argv += ["--state-dir", f"{folder}/state", "--admin-key", ADMIN_KEY]
        process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE)
        running = Gateway(process, policy, Path(folder, "state"))
        try:
            await running.wait_ready()
            yield running
        finally:
            await running.stop()


async def generate(url: str, *options: str) -> dict[str, Any]:
    """What the generator saw."""
    argv = [sys.executable, "-m", "loadtests.generator", "--url", url, *options]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), CROWD_S + 30)
    seen: dict[str, Any] = json.loads(out)
    return seen


async def open_streams(count: int) -> dict[str, Any]:
    """`count` streams open at once on one worker, then let go: every one is whole, and nothing stays open."""
    async with mocks(-(-count // REPLICA_CONNECTIONS)) as ports, before_mocks(ports) as running:
        for port in ports:
            await asyncio.to_thread(ask_mock, port, "/mode/held")
        (worker,) = running.pids("worker")
        before = processes.resident(worker)
        options = (
            "--concurrency",
            str(count),
            "--stream",
            "--once",
            "--ramp",
            str(count / OPENED_PER_S),
            "--seconds",
            "60",
            "--patience",
            "60",
        )
        asking = asyncio.create_task(generate(running.data, *options))

        async def all_open() -> bool:
            return await running.count("headgate_exchanges_in_flight") >= count or asking.done()

        await eventually(all_open, 60)
        most = await running.count("headgate_exchanges_in_flight")
        grown = processes.resident(worker) - before
        for port in ports:
            await asyncio.to_thread(ask_mock, port, "/mode/plain")
        seen = await asking

        async def none_open() -> bool:
            return await running.count("headgate_exchanges_in_flight") == await running.count("headgate_connections_open") == 0

        broken = [] if most == count else [f"only {most:g} of {count} streams were open at once"]
        try:
            await eventually(none_open, 15)
        except TimeoutError:
            broken.append("exchanges or connections stay open")
    if seen["errors"] or seen["requests"] != count or seen["events"] != count * EVENTS:
        broken.append(f"{seen['requests']} of {count} streams whole, {seen['events']} events, errors {seen['errors']}")
    return {
        "streams": count,
        "open_at_once": most,
        "kib_per_stream": round(grown / count / 1024, 1),
        "whole": seen["requests"],
        "broken": broken,
    }


async def slow_ones(count: int, seconds: float, events: int = EVENTS) -> dict[str, Any]:
    """`count` clients that read slowly, so many events, and as many that write slowly, beside quick ones: how much slower are those?"""
    async with mocks(1, events) as ports, before_mocks(ports) as running:
        quick = ("--concurrency", "8", "--seconds", str(seconds))
        await generate(running.data, "--concurrency", "8", "--seconds", "0.3")
        alone = await generate(running.data, *quick)
        host, port = running.data.removeprefix("http://").split(":")
        slow = [asyncio.create_task(each(host, int(port))) for each in (read_slowly, write_slowly) for _ in range(count)]
        beside = await generate(running.data, *quick)
        async with asyncio.timeout(CROWD_S):
            ended = await asyncio.gather(*slow, return_exceptions=True)
    whole = sum(each is True for each in ended)
    broken = (
        [] if whole == 2 * count else [f"{2 * count - whole} slow clients got no whole answer: {[e for e in ended if e is not True][:3]}"]
    )
    if alone["errors"] or beside["errors"]:
        broken.append(f"errors of quick clients: {alone['errors']} {beside['errors']}")
    broken += [
        f"quick clients' {figure}: {beside[figure]:.0f} beside slow ones, {alone[figure]:.0f} alone"
        for figure in ("latency_p50_us", "latency_p95_us")
        if beside[figure] > SLOWED_MAX * alone[figure] + SLOWED_MORE_S * 1e6
    ]
    shown = {
        f"quick_{name}": {k: round(v) for k, v in seen.items() if k.startswith("latency")}
        for name, seen in (("alone", alone), ("beside", beside))
    }
    return {"slow_readers": count, "slow_writers": count, "whole": whole, **shown, "broken": broken}


def request(stream: bool) -> tuple[bytes, bytes]:
    """Head and body."""
    body = json.dumps({"model": "mock", "messages": [{"role": "user", "content": "x" * 60}], "stream": stream}).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body), body


async def read_slowly(host: str, port: int) -> bool:
    """A stream, some hundred bytes at a time, into a small receive buffer; was it whole?"""
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        plain.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(plain, (host, port))
        await loop.sock_sendall(plain, b"".join(request(stream=True)))
        tail = b""
        while data := await loop.sock_recv(plain, SLOW_READ):
            tail = (tail + data)[-64:]
            await asyncio.sleep(SLOW_READ_S)
        return b"[DONE]" in tail and tail.endswith(b"0\r\n\r\n")


async def write_slowly(host: str, port: int) -> bool:
    """A request in small pieces; was its answer whole?"""
    reader, writer = await asyncio.open_connection(host, port)
    head, body = request(stream=False)
    writer.write(head)
    steps = int(WRITTEN_S / SLOW_WRITE_S)
    size = -(-len(body) // steps)
    for at in range(0, len(body), size):
        writer.write(body[at : at + size])
        await asyncio.sleep(SLOW_WRITE_S)
    answer = await reader.read(1 << 20)
    while more := await reader.read(1 << 20):
        answer += more
    writer.close()
    return answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"}")


async def overload(clients: int, seconds: float, seed: int) -> dict[str, Any]:
    """Many more ask than there is room for: what is too much is refused at once, with advice; who is let in waits no longer."""
    room = Setup(concurrency="{limit: 8, queue: 8, queue_for: 2s}")
    with tempfile.TemporaryDirectory(prefix="headgate-overload-", ignore_cleanup_errors=True) as folder:
        async with site(Path(folder), room, seed) as running:
            calm = await _ask_for(running, 8, seconds / 2, "calm")
            crowd = await _ask_for(running, clients, seconds, "crowd")
    let_in = [each.ended - each.started for each in crowd if each.verdict == "whole"]
    shed = [each for each in crowd if each.verdict == "error"]
    waited = [each.ended - each.started for each in shed]
    alone = [each.ended - each.started for each in calm]
    broken = [f"{each.verdict} {each.detail}" for each in crowd if each.verdict not in ("whole", "error")][:5]
    if not shed:
        broken.append("nothing was refused")
    otherwise = {each.detail for each in shed if each.detail != "503 overloaded" or not each.retry_after}
    if otherwise:
        broken.append(f"refused otherwise than with 503 and retry-after: {sorted(otherwise)}")
    if shed and sorted(waited)[len(waited) // 2] > sorted(let_in)[len(let_in) // 2]:
        broken.append("a refusal takes longer than an answer")
    return {
        "clients": clients,
        "answered": len(let_in),
        "refused": len(shed),
        **rounded(quantiles(alone, "calm")),
        **rounded(quantiles(let_in, "answered")),
        **rounded(quantiles(waited, "refused")),
        "broken": broken,
    }


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value) for name, value in values.items()}


async def _ask_for(running: Site, clients: int, seconds: float, name: str) -> list[Seen]:
    until = time.monotonic() + seconds
    seen: list[Seen] = []

    async def client(number: int) -> None:
        one, count = Client("127.0.0.1", running.port), 0
        while time.monotonic() < until:
            count += 1
            found = await one.ask(f"{name}-{number}-{count}", False, give_up=lambda: time.monotonic() > until)
            if found is not None:
                seen.append(found)
                await asyncio.sleep(0.0 if found.verdict == "whole" else 0.05)
        one.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return seen
