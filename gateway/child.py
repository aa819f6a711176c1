"""One process that a supervisor keeps alive, from outside: how it is started, told things, and heard."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Literal

import msgspec

log = logging.getLogger(__name__)

REPORT_BYTES_MAX = 64 * 1024


class ProcessSpec(msgspec.Struct, frozen=True):
    """A process to be kept alive."""

    name: str
    role: str
    """What its restarts are counted under: `worker`, `controller`, the engine's name."""
    argv: tuple[str, ...]
    fds: tuple[int, ...] = ()
    """Descriptors it inherits under the same number."""
    environment: Mapping[str, str] = {}
    """Added to the supervisor's own."""
    tethered: bool = True
    """Gets `--supervisor-fd N`, reports on it and exits at its end. False for a program that knows nothing of Headgate: it runs
    under `gateway.foreign`, which exits for it."""
    drains_first: bool = False
    """Stopped before the others, with all the time that `server.drain` gives."""
    on_exit: Literal["restart", "leave", "stop_all"] = "restart"
    """`leave`: not started again; `stop_all`: everything stops, with its exit code."""


class Child:
    """One process, alive or waiting for its next start."""

    def __init__(self, spec: ProcessSpec) -> None:
        self.spec = spec
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None
        self.pending = b""
        self.ready = False
        self.started = 0.0
        self.failures = 0
        self.start_at = 0.0
        self.leaving = False
        """Replaced, or not yet needed: its end is no death, and it is not started again."""

    def start(self) -> None:
        """Start it with its own process group: a terminal's Ctrl-C is for the supervisor to act on."""
        ours, theirs = socket.socketpair()
        fd = str(theirs.fileno())
        argv = (
            (*self.spec.argv, "--supervisor-fd", fd)
            if self.spec.tethered
            else (sys.executable, "-P", "-m", "gateway.foreign", fd, *self.spec.argv)
        )
        environment = {**os.environ, **self.spec.environment}
        self.pending, self.ready, self.started = b"", False, time.monotonic()
        with theirs:
            try:
                self.process = subprocess.Popen(
                    argv, pass_fds=(*self.spec.fds, theirs.fileno()), env=environment, stdin=subprocess.DEVNULL, process_group=0
                )
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        self.channel = ours

    def signal(self, number: int) -> None:
        """Send a signal; SIGKILL goes to whatever it has started, too."""
        if self.process is None:
            return
        try:
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)
        except ProcessLookupError:
            pass

    def say(self, message: Mapping[str, object]) -> None:
        """Tell it something, if it listens: a child that does not read is not waited for."""
        if self.channel is not None:
            try:
                self.channel.send(json.dumps(message).encode() + b"\n")
            except OSError:
                pass

    def reports(self) -> list[dict[str, object]]:
        """What it has said since the last time."""
        if self.channel is None:
            return []
        try:
            data = self.channel.recv(REPORT_BYTES_MAX)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        *lines, self.pending = (self.pending + data).split(b"\n")
        self.pending = self.pending[:REPORT_BYTES_MAX]
        if not data:
            raise EOFError
        found = []
        for line in lines:
            try:
                report = json.loads(line)
            except ValueError:
                report = None
            if isinstance(report, dict):
                found.append(report)
            else:
                log.warning("%s said something that is no report: %.100r", self.spec.name, line)
        return found
