"""What a gateway's processes hold: memory over time, and what is left when nobody asks any more."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import time
from pathlib import Path

import msgspec

from loadtests import processes
from tests.e2e.gateway import Gateway

COUNT_S = 10.0
"""What a process is given to count its tasks."""
SAMPLES_MAX = 10_000
ROLES = ("worker", "controller")


class Held(msgspec.Struct, frozen=True):
    """Of all processes of a role, at rest."""

    descriptors: int
    tasks: int
    objects: int
    resident: int
    """Bytes."""


async def held(gateway: Gateway, folder: Path) -> dict[str, Held]:
    """By role. The processes were started with HEADGATE_CHAOS_TASKS naming `folder`."""
    found = {}
    for role in ROLES:
        pids = gateway.pids(role)
        counts = [await _count(pid, folder) for pid in pids]
        found[role] = Held(
            sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
            sum(tasks for tasks, _ in counts),
            sum(objects for _, objects in counts),
            sum(processes.resident(pid) for pid in pids),
        )
    return found


async def _count(pid: int, folder: Path) -> tuple[int, int]:
    """Tasks and collectable objects of a process, by its own count."""
    told = folder / str(pid)
    told.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR2)
    async with asyncio.timeout(COUNT_S):
        while not told.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    tasks, objects = told.read_text().split()
    return int(tasks), int(objects)


class Memory:
    """Samples of resident memory, by role: (seconds, bytes)."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.samples: dict[str, list[tuple[float, float]]] = {role: [] for role in ROLES}

    async def watch(self, every_s: float) -> None:
        """Until cancelled, or until there are so many that nobody meant it."""
        for _ in range(SAMPLES_MAX):
            for role in ROLES:
                with contextlib.suppress(OSError):
                    size = sum(processes.resident(pid) for pid in self._gateway.pids(role))
                    self.samples[role].append((time.monotonic(), float(size)))
            await asyncio.sleep(every_s)

    def kib_per_minute(self, role: str) -> float:
        """The slope of the second half, by least squares; 0 where there are too few samples to tell."""
        half = self.samples[role][len(self.samples[role]) // 2 :]
        return statistics.linear_regression(*zip(*half, strict=True)).slope * 60 / 1024 if len(half) > 2 else 0.0
