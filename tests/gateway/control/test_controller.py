"""The controller as a process: real sockets, real signals, a worker's link at the other end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway import settings as process_settings
from gateway.link.messages import Down, Hello, Overlay, Prepare, Prepared, Swap, Swapped
from gateway.link.unix import WorkerLink, socket_path
from gateway.settings import Settings
from gateway.telemetry.counters import Counters
from policies.compile import decode
from tests.gateway.control.receiver import Receiver
from tests.gateway.control.rig import policy_text
from tests.gateway.link.examples import eventually, record

KEY = "hg-key"


async def backend() -> tuple[asyncio.Server, str]:
    """Answers any prompt."""
    body = b'{"choices": [{"message": {"content": "pong"}}]}'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


class FakeWorker:
    """A worker's end: takes every policy, counts, emits."""

    def __init__(self, state_dir: str, number: int = 0) -> None:
        self.version = ""
        self.heard: list[Down] = []
        self.incarnation = os.urandom(4).hex()
        self.counters = Counters()
        self.link = WorkerLink(
            socket_path(state_dir),
            hello=lambda: Hello(number, os.getpid(), self.incarnation, self.version),
            on_message=self._on_message,
            totals=self.counters.totals,
            counters=self.counters,
        )

    def _on_message(self, message: Down) -> None:
        self.heard.append(message)
        match message:
            case Prepare(version=version):
                self.link.send(Prepared(version))
            case Swap(version=version):
                self.version = version
                self.link.send(Swapped(version))


class Gateway:
    """One controller process after another over one folder; the test is its supervisor."""

    def __init__(self, folder: Path, url: str) -> None:
        self.policy = folder / "policy.yaml"
        self.policy.write_text(policy_text("v1", url=url))
        self.url = url
        self.state_dir = str(folder / "state")
        os.mkdir(self.state_dir)
        self.admin, self.metrics = _listener(), _listener()
        self.settings = Settings(policy=str(self.policy), state_dir=self.state_dir, admin_key=KEY, workers=1, log_format="json")
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.tether: socket.socket | None = None
        self.workers: list[FakeWorker] = []
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.admin.getsockname()[1]}", headers={"authorization": f"Bearer {KEY}"}, trust_env=False
        )

    def start(self) -> None:
        self.tether, theirs = socket.socketpair()
        self.tether.settimeout(20)
        fds = [self.admin.fileno(), self.metrics.fileno(), theirs.fileno()]
        names = ("--admin-fd", "--metrics-fd", "--supervisor-fd")
        arguments = [word for name, fd in zip(names, fds, strict=True) for word in (name, str(fd))]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.controller", *arguments],
                pass_fds=fds,
                env={**os.environ, process_settings.ENVIRONMENT_VARIABLE: process_settings.encode(self.settings)},
                stderr=log,
            )
        theirs.close()

    async def until_ready(self) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._reports)

    def _reports(self) -> list[dict[str, Any]]:
        assert self.tether is not None
        found = b""
        while b'"ready"' not in found:
            data = self.tether.recv(1000)
            assert data, self.log.read_text()
            found += data
        return [json.loads(line) for line in found.splitlines()]

    async def exit_code(self) -> int:
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, 20)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def worker(self, number: int = 0) -> FakeWorker:
        worker = FakeWorker(self.state_dir, number)
        self.workers.append(worker)
        worker.link.start()
        return worker

    async def get(self, path: str) -> Any:
        response = await self.client.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    async def metric(self, line: str) -> float:
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"http://127.0.0.1:{self.metrics.getsockname()[1]}/metrics")).text
        return next((float(each.rpartition(" ")[2]) for each in text.splitlines() if each.startswith(line)), 0.0)

    async def close(self) -> None:
        for worker in self.workers:
            await worker.link.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        for each in (self.admin, self.metrics, self.tether):
            if each is not None:
                each.close()
        await self.client.aclose()


def _listener() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    server, url = await backend()
    gateway = Gateway(tmp_path, url)
    yield gateway
    await gateway.close()
    server.close()


async def test_a_worker_is_brought_up_and_its_records_and_counts_are_kept(gateway: Gateway) -> None:
    gateway.start()
    worker = gateway.worker()
    reports = await gateway.until_ready()
    assert {"engines": []} in reports
    assert {"drain_s": 30.0} in reports
    await eventually(lambda: worker.version != "")
    assert next(each for each in worker.heard if isinstance(each, Overlay)).workers == 1
    assert any(isinstance(each, Overlay) and each.replicas and each.replicas[0].ready for each in worker.heard)
    worker.link.emit(record("e1"))
    worker.counters.counter("headgate_requests_total", "chat", "primary", "200").value = 3
    assert await worker.link.flush(5)
    assert (await gateway.get("/exchanges/e1"))["route"] == "chat"
    assert (await gateway.get("/status"))["workers"][0]["version"] == worker.version
    line = 'headgate_requests_total{code="200",reason="primary",route="chat"}'
    assert await gateway.metric(line) == 3
    await worker.link.close()
    second = gateway.worker()
    second.counters.counter("headgate_requests_total", "chat", "primary", "200").value = 4
    assert await second.link.flush(5)
    assert await gateway.metric(line) == 7
    gateway.signal(signal.SIGTERM)
    assert await gateway.exit_code() == 0


async def test_embedded_models_are_asked_for_and_their_address_is_filled_in(gateway: Gateway) -> None:
    port = int(gateway.url.rpartition(":")[2])
    gateway.settings = msgspec.structs.replace(gateway.settings, embedded_port=port)
    text = policy_text("specialist").replace("kind: vllm", "kind: embedded").replace('replicas: ["http://127.0.0.1:1"], ', "")
    gateway.policy.write_text(text)
    gateway.start()
    worker = gateway.worker()
    assert {"engines": ["embedded"]} in await gateway.until_ready()
    await eventually(lambda: worker.version != "")
    order = next(each for each in worker.heard if isinstance(each, Prepare))
    assert decode(order.policy).backends[0].replicas == (gateway.url,)


@pytest.mark.key("alerts.webhooks[].url")
async def test_an_alert_reaches_the_webhook_of_the_policy(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = Receiver(200)
    await receiver.start()
    monkeypatch.setenv("ALERT_URL", receiver.url)
    gateway.policy.write_text(policy_text("v1", url=gateway.url, extra="alerts: {webhooks: [{url: '${env:ALERT_URL}'}]}"))
    gateway.start()
    await gateway.until_ready()
    gateway.policy.write_text("nonsense: 1")
    await gateway.client.post("/reload")
    await eventually(lambda: bool(receiver.bodies))
    assert (receiver.bodies[0]["alert"], receiver.bodies[0]["state"]) == ("policy_rejected", "firing")
    async with asyncio.timeout(5):  # counted once the answer has been taken
        while await gateway.metric('headgate_alert_deliveries_total{result="ok"}') != 1:
            await asyncio.sleep(0.02)
    assert "token=secret" not in gateway.log.read_text()
    assert "token=secret" not in (await gateway.client.get("/policy")).text


@pytest.mark.key("server.drain")
async def test_the_supervisor_is_told_how_long_the_workers_may_drain(gateway: Gateway) -> None:
    gateway.policy.write_text(policy_text("v1", url=gateway.url, extra="server: {drain: 7s}"))
    gateway.start()
    assert {"drain_s": 7.0} in await gateway.until_ready()


async def test_a_killed_controller_is_taken_up_by_the_next_one_with_every_record_once(gateway: Gateway) -> None:
    gateway.start()
    worker = gateway.worker()
    await gateway.until_ready()
    await eventually(lambda: worker.version != "")
    prepared = sum(isinstance(each, Prepare) for each in worker.heard)
    for number in range(500):
        worker.link.emit(record(f"before-{number}"))
    gateway.signal(signal.SIGKILL)
    await gateway.exit_code()
    for number in range(500):
        worker.link.emit(record(f"after-{number}"))
    gateway.start()
    await gateway.until_ready()
    assert await worker.link.flush(10)
    found = [each["exchange_id"] for each in (await gateway.get("/exchanges?limit=1000"))["exchanges"]]
    assert len(found) == len(set(found)) == 1000
    assert sum(isinstance(each, Prepare) for each in worker.heard) == prepared  # it has the version already


async def test_a_killed_controller_leaves_the_counts_of_dead_workers_to_the_next_one(gateway: Gateway) -> None:
    line = 'headgate_requests_total{code="200",reason="primary",route="chat"}'
    gateway.start()
    await gateway.until_ready()
    dead, dies_meanwhile, lives = (gateway.worker(number) for number in range(3))
    for count, worker in enumerate((dead, dies_meanwhile, lives), 1):
        worker.counters.counter("headgate_requests_total", "chat", "primary", "200").value = count
        assert await worker.link.flush(5)
    await dead.link.close()
    counts = Path(gateway.state_dir, "counts.msgpack")
    await eventually(lambda: counts.exists() and b"headgate_requests_total" in counts.read_bytes())
    await asyncio.sleep(1.5)  # longer than a checkpoint takes to come
    gateway.signal(signal.SIGKILL)
    await gateway.exit_code()
    await dies_meanwhile.link.close()
    gateway.start()
    await gateway.until_ready()
    assert await lives.link.flush(10)
    assert await gateway.metric(line) == 6


async def test_a_stopped_controller_holds_nobody_up(gateway: Gateway) -> None:
    gateway.start()
    worker = gateway.worker()
    await gateway.until_ready()
    await eventually(lambda: worker.version != "")
    gateway.signal(signal.SIGSTOP)
    started = asyncio.get_running_loop().time()
    for number in range(5_000):
        worker.link.emit(record(str(number)))
    assert asyncio.get_running_loop().time() - started < 2
    assert not await worker.link.flush(0.2)
    gateway.signal(signal.SIGCONT)
    assert await worker.link.flush(15)
    assert worker.link.records_waiting == 0


async def test_sighup_and_the_admin_api_reload(gateway: Gateway) -> None:
    gateway.start()
    worker = gateway.worker()
    await gateway.until_ready()
    await eventually(lambda: worker.version != "")
    first = worker.version
    gateway.policy.write_text(policy_text("v2", url=gateway.url))
    gateway.signal(signal.SIGHUP)
    await eventually(lambda: worker.version != first)
    gateway.policy.write_text("nonsense: 1")
    response = await gateway.client.post("/reload")
    assert response.status_code == 422
    assert (await gateway.get("/status"))["rejected"]["problems"]
    assert await gateway.metric("headgate_policy_rejected") == 1
    assert await gateway.metric('headgate_alerts{alert="policy_rejected"') == 1
    back = (await gateway.client.post("/rollback")).json()
    assert back["version"] == first == worker.version


async def test_a_policy_without_keys_is_rejected_where_anyone_can_reach_the_listener(gateway: Gateway) -> None:
    gateway.settings = msgspec.structs.replace(gateway.settings, host="0.0.0.0")
    gateway.policy.write_text(policy_text("v1", url=gateway.url, extra="server: {anonymous: true}"))
    gateway.start()
    worker = gateway.worker()
    await gateway.until_ready()
    await eventually(lambda: worker.version != "")
    first = worker.version
    gateway.policy.write_text(policy_text("v1", url=gateway.url))
    response = await gateway.client.post("/reload")
    assert response.status_code == 422
    assert "no keys" in response.json()["error"]["message"]
    (problem,) = (await gateway.get("/status"))["rejected"]["problems"]
    assert "loopback only, not on 0.0.0.0" in problem["text"]
    assert await gateway.metric("headgate_policy_rejected") == 1
    assert await gateway.metric('headgate_policy_reloads_total{result="rejected"}') == 1
    assert "policy rejected" in gateway.log.read_text()
    assert worker.version == first


async def test_no_policy_to_serve_is_exit_code_1_and_the_log_says_what_is_wrong(gateway: Gateway) -> None:
    gateway.policy.write_text("version: 1\n")
    gateway.start()
    assert await gateway.exit_code() == 1
    events = [json.loads(line)["event"] for line in gateway.log.read_text().splitlines()]
    assert any('"backends" is missing' in event for event in events)


async def test_when_the_supervisor_is_gone_it_stays_until_the_workers_have_drained(gateway: Gateway) -> None:
    gateway.start()
    worker = gateway.worker()
    await gateway.until_ready()
    await eventually(lambda: worker.version != "")
    assert gateway.tether is not None
    gateway.tether.close()
    await asyncio.sleep(0.5)
    worker.link.emit(record("late"))
    assert await worker.link.flush(5)
    await worker.link.close()
    assert await gateway.exit_code() == 0
    assert gateway.process is not None
    gateway.start()
    await gateway.until_ready()
    assert (await gateway.get("/exchanges/late"))["exchange_id"] == "late"


async def test_two_controllers_never_share_a_folder(gateway: Gateway) -> None:
    gateway.start()
    await gateway.until_ready()
    first, tether = gateway.process, gateway.tether
    assert first is not None
    assert tether is not None
    gateway.start()
    assert await gateway.exit_code() == 1
    assert "another gateway is using" in gateway.log.read_text()
    first.terminate()
    assert await asyncio.to_thread(first.wait, 20) == 0
    tether.close()
