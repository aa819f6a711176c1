"""The first figures: CPU microseconds a request and a chunk of Headgate's process tree beside nginx's, interleaved in one run.

`python -m loadtests.smoke [--rounds 3] [--seconds 4]` prints a table on stderr and JSON on stdout. The gateway has core 0, the
mock backend and the generator core 1. nginx is Debian's; without it only Headgate is measured. The errors and the mock's own
count must agree with the generator's, or the round is void.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec

TICKS = os.sysconf("SC_CLK_TCK")
GATEWAY_CORE, LOAD_CORE = "0", "1"
CHUNKS = 128

NGINX = """
worker_processes 1; daemon off; pid {dir}/nginx.pid; error_log {dir}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u;
  scgi_temp_path {dir}/s; client_body_buffer_size 128k; keepalive_requests 1000000;
  upstream mock {{ server 127.0.0.1:{mock}; keepalive 1024; keepalive_requests 1000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }}
}}
"""

POLICY = """
version: 1
backends:
  - name: mock
    kind: openai
    replicas: ["http://127.0.0.1:{mock}"]
    model: mock
    concurrency: {{limit: 2000, queue: 2000}}
    readiness: {{every: 1h}}
routes:
  - {{name: chat, matches: [{{models: [mock, chat]}}], backend: mock}}
"""


class Scenario(msgspec.Struct, frozen=True):
    """A load and what its cost is divided by."""

    name: str
    concurrency: int
    stream: bool
    unit: str
    prompt_bytes: int = 1000


SCENARIOS = (
    Scenario("request at 32", 32, False, "requests"),
    Scenario("request at 32, 32 KB prompt", 32, False, "requests", 32_000),
    Scenario("chunk at 256 streams", 256, True, "chunks"),
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pinned(core: str, *argv: str) -> list[str]:
    return ["taskset", "-c", core, *argv]


def wait_for(port: int, process: subprocess.Popen[bytes], path: str = "") -> None:
    """Until the port accepts, and `path`, where one is given, answers 200."""
    for _ in range(300):
        if process.poll() is not None:
            raise SystemExit(f"a subject exited with {process.returncode}")
        with contextlib.suppress(OSError):
            if path:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1).close()
            else:
                socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.1)
    raise SystemExit(f"nothing answers on port {port}")


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    children = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(child) for child in (task / "children").read_text().split()]
    return [pid, *(found for child in children for found in tree(child))]


def cpu_s(pid: int) -> tuple[float, dict[str, float]]:
    """User and system seconds of a process tree, and by process."""
    parts: dict[str, float] = {}
    for each in tree(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
            name = Path(f"/proc/{each}/cmdline").read_text().replace("\0", " ")
            role = next((word for word in ("worker", "controller") if f"gateway.{word}" in name), "other")
            parts[role] = parts.get(role, 0.0) + (int(fields[11]) + int(fields[12])) / TICKS
    return sum(parts.values()), parts


@contextlib.contextmanager
def running(argv: list[str], port: int, path: str = "", **options: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    try:
        wait_for(port, process, path)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def measure(pid: int, port: int, mock: int, scenario: Scenario, seconds: float) -> dict[str, float]:
    """One round of one scenario: CPU microseconds a unit, by process."""

    def answered() -> int:
        return int(urllib.request.urlopen(f"http://127.0.0.1:{mock}/count").read())

    before, parts_before = cpu_s(pid)
    counted = answered()
    argv = [sys.executable, "-m", "loadtests.generator", "--url", f"http://127.0.0.1:{port}"]
    argv += ["--concurrency", str(scenario.concurrency), "--seconds", str(seconds), "--prompt-bytes", str(scenario.prompt_bytes)]
    result = json.loads(subprocess.check_output(pinned(LOAD_CORE, *argv, *(["--stream"] if scenario.stream else []))))
    time.sleep(0.3)  # what is flushed after the last answer belongs to the run
    after, parts_after = cpu_s(pid)
    if result["errors"] or answered() - counted != result["requests"]:
        raise SystemExit(f"void: {scenario.name}: {result}, the backend answered {answered() - counted}")
    units = result[scenario.unit]
    figures = {"us": (after - before) / units * 1e6, "p50_us": result["p50_us"], "units": float(units)}
    for role, spent in parts_after.items():
        figures[f"{role}_us"] = (spent - parts_before.get(role, 0.0)) / units * 1e6
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    args = parser.parse_args()
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    scenarios = [scenario for scenario in SCENARIOS if args.only in scenario.name]
    figures: dict[str, dict[str, list[dict[str, float]]]] = {}
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="headgate-smoke-"))
        mock, port, nginx_port = free_port(), free_port(), free_port()
        argv = [sys.executable, "-m", "loadtests.mock", "--port", str(mock), "--chunks", str(CHUNKS)]
        stack.enter_context(running(pinned(LOAD_CORE, *argv), mock))
        policy = Path(directory, "policy.yaml")
        policy.write_text(POLICY.format(mock=mock))
        argv = [sys.executable, "-m", "gateway.cli.main", "serve", str(policy), "--port", str(port), "--admin-port", str(free_port())]
        argv += ["--metrics-port", str(free_port()), "--state-dir", f"{directory}/state"]
        subjects = {"headgate": (stack.enter_context(running(pinned(GATEWAY_CORE, *argv), port, "/health/ready")), port)}
        if nginx:
            Path(directory, "nginx.conf").write_text(NGINX.format(dir=directory, mock=mock, port=nginx_port))
            argv = pinned(GATEWAY_CORE, nginx, "-c", f"{directory}/nginx.conf", "-p", directory)
            subjects["nginx"] = (stack.enter_context(running(argv, nginx_port)), nginx_port)
        for round_ in range(args.rounds):
            for scenario in scenarios:
                for name, (process, at) in subjects.items():
                    result = measure(process.pid, at, mock, scenario, args.seconds)
                    figures.setdefault(scenario.name, {}).setdefault(name, []).append(result)
                    print(f"round {round_}: {scenario.name}: {name}: {result['us']:.1f} us", file=sys.stderr)
    report(figures)


def report(figures: dict[str, dict[str, list[dict[str, float]]]]) -> None:
    """Medians, spread and ratios."""
    summary = {}
    for scenario, subjects in figures.items():
        row: dict[str, object] = {}
        for name, rounds in subjects.items():
            values = [figure["us"] for figure in rounds]
            row[name] = {key: statistics.median(figure[key] for figure in rounds if key in figure) for key in rounds[0]}
            row[f"{name}_min_max"] = [min(values), max(values)]
        if "nginx" in subjects:
            pairs = zip(subjects["headgate"], subjects["nginx"], strict=True)
            row["ratio"] = statistics.median(ours["us"] / theirs["us"] for ours, theirs in pairs)
        summary[scenario] = row
        print(
            f"{scenario:32} " + "  ".join(f"{k}={v:.2f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), file=sys.stderr
        )
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
