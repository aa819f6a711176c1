"""Load at a part of what the rig can, with clients that come and go, reloads and backends that restart; then the reckoning."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import random
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from loadtests.chaos.clients import Client, Seen
from loadtests.chaos.site import Setup, Site, read_journal, site
from loadtests.generator import quantiles
from loadtests.soak.watch import ROLES, Held, Memory, held
from tests.e2e.gateway import eventually

LOAD = 0.7
CLIENTS = 48
CHURN = 60
"""A client leaves its connection after at most so many requests."""
SLOPE_FROM_MINUTES = 5.0
SLOPE_MAX_KIB_PER_MINUTE = 64.0
REST_S = 15.0
DISTURB_S = 0.5
"""Reloads and restarts are at least so far apart."""
BAD = ("turned_away", "lost", "silent", "wrong", "garbled", "hung")
GAUGES = ("headgate_connections_open", "headgate_exchanges_in_flight", "headgate_upstream_in_flight", "headgate_upstream_queue_depth")


class Ledger:
    """Every exchange that a client was told of, in constant space: how many, and the sum of their hashes."""

    def __init__(self) -> None:
        self.verdicts: collections.Counter[str] = collections.Counter()
        self.latencies: collections.deque[float] = collections.deque(maxlen=100_000)
        self.exchanges = 0
        self.sum = 0

    def note(self, seen: Seen) -> None:
        self.verdicts[seen.verdict] += 1
        self.latencies.append(seen.ended - seen.started)
        if seen.exchange_id:
            self.exchanges += 1
            self.sum = (self.sum + hashed(seen.exchange_id)) % 2**64


def hashed(exchange_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(exchange_id.encode(), digest_size=8).digest(), "big")


def on_record(state: Path) -> tuple[int, int]:
    """How many exchanges are in the store, and the sum of their hashes; ids are unique there."""
    count = total = 0
    with contextlib.closing(sqlite3.connect(f"file:{state}/records.sqlite?mode=ro", uri=True)) as store:
        for (each,) in store.execute("SELECT exchange_id FROM records"):
            count, total = count + 1, (total + hashed(each)) % 2**64
    return count, total


class Crowd:
    """Clients that ask at `rate` together, or as fast as they can where it is 0."""

    def __init__(self, site: Site, ledger: Ledger, seed: int) -> None:
        self._site = site
        self._ledger = ledger
        self._seed = seed
        self._count = 0

    async def ask(self, seconds: float, rate: float, clients: int = CLIENTS) -> float:
        """For so long; the rate that was reached, a second."""
        begun, before = time.monotonic(), self._count
        slots = 0

        async def client(number: int) -> None:
            nonlocal slots
            chance = random.Random(f"{self._seed}:{number}:{before}")
            one, left = Client("127.0.0.1", self._site.port), chance.randrange(1, CHURN)
            while time.monotonic() < begun + seconds:
                if rate:
                    slots += 1
                    await asyncio.sleep(max(0.0, begun + slots / rate - time.monotonic()))
                self._count += 1
                found = await one.ask(f"soak-{self._count}", chance.random() < 0.5, give_up=lambda: time.monotonic() > begun + seconds)
                if found is not None:
                    self._ledger.note(found)
                left -= 1
                if left <= 0:
                    one.close()
                    left = chance.randrange(1, CHURN)
            one.close()

        await asyncio.gather(*(client(number) for number in range(clients)))
        return (self._count - before) / (time.monotonic() - begun)


async def disturb(running: Site, every_s: float, done: collections.Counter[str], over: asyncio.Event) -> None:
    """A reload and the restart of a backend, in turn, until it is over; each at least once, and none by half."""
    assert running.gateway is not None
    for number in range(1_000_000):
        if over.is_set() and number >= 2:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), every_s)
        if number % 2 == 0:
            await running.gateway.write_policy(running.policy(drain_s=11 + number % 7))
            done["reloads"] += 1
        else:
            backend = running.backends[number // 2 % 2]
            await backend.kill()
            await backend.start()
            done["backend restarts"] += 1


async def at_rest(running: Site, tasks: Path, like: dict[str, Held] | None = None) -> dict[str, Any]:
    """What is held when nobody asks and no kept connection to a backend is left: the backends are away while we count. Where it is
    more than `like`, it is counted again for a while: what we ask the metrics with has to end, too."""
    assert running.gateway is not None
    gateway = running.gateway
    for backend in running.backends:
        await backend.kill()

    async def quiet() -> bool:
        return all([await gateway.count(name) == 0 for name in GAUGES])

    await eventually(quiet, 30)
    found = await held(gateway, tasks)
    until = time.monotonic() + REST_S
    while like is not None and any(more(found[role], like[role]) for role in ROLES) and time.monotonic() < until:
        await asyncio.sleep(0.2)
        found = await held(gateway, tasks)
    await asyncio.gather(*(backend.start() for backend in running.backends))
    return {"held": found, "snapshots": await gateway.count("headgate_snapshots_alive")}


async def steady(minutes: float, seed: int) -> dict[str, Any]:
    """The soak. `broken` names what must not be."""
    ledger, done = Ledger(), collections.Counter[str]()
    with tempfile.TemporaryDirectory(prefix="headgate-soak-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        tasks = folder / "tasks"
        tasks.mkdir()
        async with site(folder, Setup(environment={"HEADGATE_CHAOS_TASKS": str(tasks)}), seed) as running:
            assert running.gateway is not None
            crowd = Crowd(running, ledger, seed)
            seconds = minutes * 60
            most = await crowd.ask(min(10.0, seconds / 6), 0)
            before = await at_rest(running, tasks)
            memory = Memory(running.gateway)
            over = asyncio.Event()
            watching = asyncio.create_task(memory.watch(min(5.0, max(0.2, seconds / 60))))
            disturbing = asyncio.create_task(disturb(running, max(DISTURB_S, seconds / 60), done, over))
            try:
                reached = await crowd.ask(seconds, LOAD * most)
            finally:
                over.set()
                watching.cancel()
                ended = await asyncio.gather(watching, disturbing, return_exceptions=True)
                failed = [each for each in ended if isinstance(each, Exception)]
            after = await at_rest(running, tasks, before["held"])

            async def recorded() -> bool:
                return on_record(running.state) == (ledger.exchanges, ledger.sum)

            with contextlib.suppress(TimeoutError):
                await eventually(recorded, 15)
            stored = on_record(running.state)
        journal = read_journal(running.journal)
    report: dict[str, Any] = {
        "minutes": minutes,
        "most_per_s": round(most, 1),
        "reached_per_s": round(reached, 1),
        "answers": dict(ledger.verdicts),
        "disturbed": dict(done),
        **{name: round(value) for name, value in quantiles(ledger.latencies, "latency").items()},
        "on_record": stored[0],
        "told": ledger.exchanges,
        "memory_kib_per_minute": {role: round(memory.kib_per_minute(role), 1) for role in ROLES},
        "held_before": {role: msgspec.structs.asdict(before["held"][role]) for role in ROLES},
        "held_after": {role: msgspec.structs.asdict(after["held"][role]) for role in ROLES},
    }
    report["broken"] = [repr(each) for each in failed] + list(broken(report, ledger, stored, journal.doubled, after["snapshots"]))
    return report


def more(after: Held, before: Held) -> bool:
    return after.descriptors > before.descriptors or after.tasks > before.tasks


def broken(report: dict[str, Any], ledger: Ledger, stored: tuple[int, int], doubled: int, snapshots: float) -> list[str]:
    """What a soak must not show."""
    found = [f"{ledger.verdicts[name]} answers {name}" for name in BAD if ledger.verdicts[name]]
    if stored != (ledger.exchanges, ledger.sum):
        found.append(f"{stored[0]} exchanges on record, clients were told of {ledger.exchanges}, or they are not the same ones")
    if doubled:
        found.append(f"{doubled} requests generated twice")
    if snapshots != 1:
        found.append(f"{snapshots:g} snapshots of the policy are alive")
    for role in ROLES:
        before, after = report["held_before"][role], report["held_after"][role]
        for name in ("descriptors", "tasks"):
            if after[name] > before[name]:
                found.append(f"the {role} has {after[name]} {name}, and had {before[name]} before")  # noqa: PERF401
        if report["minutes"] >= SLOPE_FROM_MINUTES and report["memory_kib_per_minute"][role] > SLOPE_MAX_KIB_PER_MINUTE:
            found.append(f"the memory of the {role} grows by {report['memory_kib_per_minute'][role]} KiB a minute")
    return found
