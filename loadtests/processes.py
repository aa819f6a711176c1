"""Processes of a measurement: started on a core, waited for, watched through /proc, and stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec

TICKS = os.sysconf("SC_CLK_TCK")
START_S = 90.0
"""What a subject is given to answer its first request; LiteLLM takes half a minute on a busy machine."""
STOP_S = 20.0


class DidNotStartError(Exception):
    """A process that exited, or never answered; the message has its last words."""


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pinned(core: int | str, *argv: str) -> list[str]:
    """A command that stays on one core, or on several (`0,2`)."""
    return ["taskset", "-c", str(core), *argv]


@contextlib.contextmanager
def running(
    argv: list[str], port: int, path: str = "", *, log: Path, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that answers on `port` (`path`, where given, with 200); what it says goes to `log`. Raises DidNotStartError."""
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **(env or {})})
    try:
        _wait_for(process, port, path, log)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise DidNotStartError(f"it exited with {process.returncode}: {log.read_text(errors='replace')[-600:]}")
        with contextlib.suppress(OSError):
            if path:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2).close()
            else:
                socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.1)
    raise DidNotStartError(f"nothing answers on port {port} after {START_S:.0f} s: {log.read_text(errors='replace')[-600:]}")


def tree(pid: int) -> list[int]:
    """A process and all below it; one that has just gone is left out."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    return found


class Usage(msgspec.Struct):
    """Of one process, or of several together."""

    cpu_s: float = 0.0
    """User and system seconds."""
    resident: int = 0
    """Bytes."""
    descriptors: int = 0


def usage(pid: int) -> dict[str, Usage]:
    """Of a process tree by role: worker, controller, or other."""
    roles: dict[str, Usage] = {}
    for each in tree(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
            command = Path(f"/proc/{each}/cmdline").read_text().replace("\0", " ")
            role = next((word for word in ("worker", "controller") if f"gateway.{word}" in command), "other")
            found = roles.setdefault(role, Usage())
            found.cpu_s += (int(fields[11]) + int(fields[12])) / TICKS
            found.resident += resident(each)
            found.descriptors += len(os.listdir(f"/proc/{each}/fd"))
    return roles


def resident(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def total(roles: dict[str, Usage]) -> Usage:
    """The whole tree."""
    return Usage(
        sum(each.cpu_s for each in roles.values()),
        sum(each.resident for each in roles.values()),
        sum(each.descriptors for each in roles.values()),
    )
