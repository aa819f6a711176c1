"""What is measured: Headgate with every feature on, with one worker or two (`headgate-2`), its peers, and the mock itself (`direct`),
each started on the gateway's core."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from loadtests import processes
from loadtests.peers.install import program

HERE = Path(__file__).parent
GATEWAY_CORE, LOAD_CORE = 0, 1
HEADGATES = {"headgate": 1, "headgate-2": 2}
"""Workers, by subject."""
KEY = "hg-0123456789abcdef0123456789abcdef0123456789"
PEER_KEYS = {"litellm": "sk-0123456789abcdef0123456789abcdef0123456789"}
"""LiteLLM does not start without one; nginx and the routers ask for none."""
GUARD = """\
  - name: guard
    matches: [{models: [guard]}]
    segments: [tenant]
    guard: {detector: tickets, when_ood: flag}
    backend: mock
detectors:
  - {name: tickets, artifact: detector.npz}
"""
"""What the policy of a gateway for guarded scenarios has, too."""
DETECTOR = HERE.parent / "gateway/embedded/fitted/detector.npz"
SCRAPE_S = 5.0
"""How often Headgate's metrics are read while it is measured, as a Prometheus would."""


class Counts(msgspec.Struct, frozen=True):
    """How many exchanges Headgate says there were."""

    metrics: int
    records: int


class Subject:
    """One that is running. `pid` is 0 where there is no process to measure."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes] | None) -> None:
        self.name = name
        self.port = port
        self.pid = 0 if process is None else process.pid
        self.key = ""
        self.counts: Callable[[], Counts] | None = None
        self.idle = self.usage()
        """Before its first request."""

    def usage(self) -> dict[str, processes.Usage]:
        return processes.usage(self.pid) if self.pid else {}


def fill(file: str, words: dict[str, object]) -> str:
    """A committed configuration with its `@words@` filled in."""
    text = (HERE / file).read_text(encoding="utf-8")
    for name, value in words.items():
        text = text.replace(f"@{name}@", str(value))
    return text


@contextlib.contextmanager
def start(name: str, folder: Path, mock: int, *, guarded: bool = False) -> Iterator[Subject]:
    """A subject in front of the mock on port `mock`; raises PeerMissingError or DidNotStartError. `guarded`: a Headgate with a
    detector."""
    if name == "direct":
        yield Subject(name, mock, None)
        return
    if name in HEADGATES:
        with _headgate(name, folder, mock, guarded) as subject:
            yield subject
        return
    port, folder = processes.free_port(), folder / name
    folder.mkdir()
    words = {"dir": folder, "mock": mock, "port": port, "spare": processes.free_port(), "key": PEER_KEYS.get(name, "")}
    argv, path = _command(name, folder, words)
    argv = processes.pinned(GATEWAY_CORE, *argv)
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1", "DISABLE_ADMIN_UI": "True"}
    with processes.running(argv, port, path, log=folder / "log", env=quiet) as process:
        subject = Subject(name, port, process)
        subject.key = PEER_KEYS.get(name, "")
        yield subject


def _command(name: str, folder: Path, words: dict[str, object]) -> tuple[list[str], str]:
    """Of a peer, and what it answers with 200 once it serves."""
    found = str(program(name))
    if name == "nginx":
        (folder / "nginx.conf").write_text(fill("peers/nginx.conf", words))
        return [found, "-c", f"{folder}/nginx.conf", "-p", str(folder)], "/v1/models"
    if name == "litellm":
        (folder / "litellm.yaml").write_text(fill("peers/litellm.yaml", words))
        options = ["--host", "127.0.0.1", "--port", str(words["port"]), "--num_workers", "1", "--telemetry", "False"]
        return [found, "--config", f"{folder}/litellm.yaml", *options], "/health/liveliness"
    return [found, *fill(f"peers/{name}.args", words).split()], "/v1/models"


@contextlib.contextmanager
def _headgate(name: str, folder: Path, mock: int, guarded: bool) -> Iterator[Subject]:
    """Supervisor, controller and workers; keys, records, metrics that are scraped, spans of 1 % to a sink of ours."""
    folder = folder / ("guarded" if guarded else name)
    folder.mkdir()
    (folder / "policy.yaml").write_text(fill("headgate.yaml", {"mock": mock, "guard": GUARD if guarded else ""}))
    (folder / "detector.npz").write_bytes(DETECTOR.read_bytes())
    port, metrics = processes.free_port(), processes.free_port()
    with _sink() as collector:
        argv = [sys.executable, "-m", "gateway.cli.main", "serve", f"{folder}/policy.yaml", "--port", str(port)]
        argv += ["--admin-port", str(processes.free_port()), "--metrics-port", str(metrics), "--state-dir", f"{folder}/state"]
        argv += [
            "--otlp-endpoint",
            f"http://127.0.0.1:{collector}/v1/traces",
            "--trace-sample-percent",
            "1",
            "--workers",
            str(HEADGATES[name]),
        ]
        env = {"LOADTEST_KEY_SHA256": hashlib.sha256(KEY.encode()).hexdigest()}
        argv = processes.pinned(cores(HEADGATES[name]), *argv)
        with processes.running(argv, port, "/health/ready", log=folder / "log", env=env) as process, _scraping(metrics):
            subject = Subject(name, port, process)
            subject.key = KEY
            subject.counts = lambda: Counts(requests_counted(metrics), records_stored(folder / "state/records.sqlite"))
            yield subject


def cores(workers: int) -> str:
    """One for each worker, where there are so many; never the load's."""
    others = [each for each in range(os.cpu_count() or 1) if each not in (GATEWAY_CORE, LOAD_CORE)]
    return ",".join(map(str, [GATEWAY_CORE, *others][:workers]))


def requests_counted(metrics: int) -> int:
    """What the metrics on a port say was answered, over all routes and codes."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10).read().decode()
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("headgate_requests_total{")))


def records_stored(path: Path) -> int:
    """How many exchanges are in a store; the table's last row id, since nothing is deleted while we measure."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
        return int(store.execute("SELECT coalesce(max(id), 0) FROM records").fetchone()[0])


@contextlib.contextmanager
def _scraping(metrics: int) -> Iterator[None]:
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(SCRAPE_S):
            with contextlib.suppress(OSError):
                requests_counted(metrics)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _Sink(http.server.BaseHTTPRequestHandler):
    """Takes spans and forgets them."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def _sink() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Sink) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
