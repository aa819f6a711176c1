"""The demo, run for real: a gateway, a worker, the embedded models and the traffic."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PORTS_OF_ITS_OWN = ("--port", "0", "--admin-port", "0", "--metrics-port", "0")


def demo(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gateway.cli.main", "demo", *PORTS_OF_ITS_OWN, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def running(own_state_home: Path) -> Iterator[subprocess.Popen[str]]:
    process = demo()
    yield process
    process.kill()
    process.communicate()


def played(process: subprocess.Popen[str]) -> str:
    """What it printed when all was played."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Ctrl-C"):
            return "".join(lines)
    raise AssertionError(process.communicate()[1])


def test_the_demo_plays_and_verifies() -> None:
    process = demo("--check")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert "30 requests were played" in out
    assert re.search(r"My invoice for the lamp is wrong\. .* generalist \(failover\) ", out)
    assert re.search(r"Where is my package with the camera\? +shipping +specialist +\d", out)
    assert re.search(r"What is the capital of France\? +Paris +generalist \(ood\)", out)
    assert re.search(r"The total on the receipt is higher than the price\. +billing +generalist \(low_confidence\)", out)
    assert re.search(r"deferred: calibrated", out), "the story says why"
    assert re.search(r"\n +1 specialist .* queue_full", out), "the record says why"
    assert "served       by generalist (failover: the backends before it failed)" in out
    assert out.splitlines()[-1].startswith("All is well: ")
    assert "specialist" in out
    assert "generalist" in out
    assert "not as it should be" not in err


def test_ctrl_c_stops_it_and_all_it_started(running: subprocess.Popen[str], own_state_home: Path) -> None:
    told = played(running)
    port = int(re.search(r"base_url  http://127\.0\.0\.1:(\d+)/v1", told)[1])  # type: ignore[index]
    policy = Path(re.search(r"^Change it: in (\S+)$", told, re.MULTILINE)[1])  # type: ignore[index]
    assert policy.is_relative_to(own_state_home)
    assert running.stdout is not None
    policy.write_text(policy.read_text().replace("when_ood: to_last", "when_ood: flag"))
    while not (line := running.stdout.readline()).startswith("policy "):
        assert line, "it tells of the change"
    assert re.fullmatch(r"policy \w{16} is in force; before it was \w{16}\n", line)
    exchange, admin = re.search(r"explain --exchange (\w+) --admin-url (\S+)", told).groups()  # type: ignore[union-attr]
    command = [sys.executable, "-m", "gateway.cli.main", "explain", "--exchange", exchange, "--admin-url", admin]
    assert f"exchange {exchange}" in subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    running.send_signal(signal.SIGINT)
    assert running.wait(30) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_killed_gateway_leaves_no_process_that_holds_its_port(running: subprocess.Popen[str]) -> None:
    port = int(re.search(r"base_url  http://127\.0\.0\.1:(\d+)/v1", played(running))[1])  # type: ignore[index]
    children = [int(pid) for pid in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()]
    assert len(children) >= 3, "controller, worker, embedded models"
    watched = [os.pidfd_open(pid) for pid in children]
    running.kill()
    for descriptor in watched:
        ended, _, _ = select.select([descriptor], [], [], 30)
        assert ended
        os.close(descriptor)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
