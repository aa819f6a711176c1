"""One fault under load, from the start of its site to the verdict."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import random
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from loadtests.chaos.clients import Client, Seen
from loadtests.chaos.faults import CannotInjectError, Fault, injecting
from loadtests.chaos.site import Generations, Site, read_journal, site

TRIAL_S = 90.0
"""No trial asks longer than this, whatever is still to be seen."""
RECORDED_S = 15.0
"""Records reach the store some milliseconds after the answer; a controller that was killed is back within seconds."""
NEVER = ("silent", "wrong", "garbled", "hung")
KINDS = ("whole", "error", "error_in_stream", "turned_away", "lost", *NEVER)
BACK_OFF_S = 0.1
"""What a client waits that was told of an error."""


class Outcome(msgspec.Struct):
    """What came of one fault. `details` counts what clients were told; `broken` has a line for every promise that was not kept."""

    fault: str
    counts: collections.Counter[str] = msgspec.field(default_factory=collections.Counter)
    details: collections.Counter[str] = msgspec.field(default_factory=collections.Counter)
    injected: collections.Counter[str] = msgspec.field(default_factory=collections.Counter)
    broken: list[str] = []
    skipped: str = ""
    seconds: float = 0.0

    def told(self) -> dict[str, Any]:
        return {**msgspec.structs.asdict(self), "counts": dict(self.counts), "details": dict(self.details), "injected": dict(self.injected)}


async def trial(fault: Fault, *, seed: int, exchanges: int, clients: int) -> Outcome:
    """Load, faults, and the reckoning. With fewer exchanges than 1,000 there are fewer injections."""
    outcome = Outcome(fault.name)
    injections = max(1, min(fault.injections, fault.injections * exchanges // 1000)) if fault.inject else 0
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headgate-chaos-", ignore_cleanup_errors=True)))
        setup = fault.setup
        if fault.prepare is not None:
            try:
                setup = stack.enter_context(fault.prepare(folder, setup))
            except CannotInjectError as error:
                outcome.skipped = str(error)
                return outcome
        begun = time.monotonic()
        told: list[str] = []
        async with site(folder, setup, seed) as running:
            seen = await _ask(running, fault, random.Random(f"{seed}:{fault.name}"), told, exchanges, injections, clients)
            missing = await unrecorded(running, {each.exchange_id for each in seen if each.exchange_id})
            dropped = await counted_as_dropped(running)
        journal = read_journal(running.journal)
        acknowledged = running.acknowledged - stored(running.state)
    outcome.seconds = time.monotonic() - begun
    _reckon(outcome, fault, seen, journal, missing, len(acknowledged), len(told))
    if fault.may_miss_records and not fault.may_lose and missing != dropped:
        outcome.broken.append(f"{missing} exchanges not on record, but {dropped} counted as dropped")
    outcome.injected.update(told)
    if fault.inject is None and fault.setup.fault != "none":
        outcome.injected[f"{fault.setup.fault} by a backend"] = journal.refused + journal.spoilt
    outcome.counts["injected"] = outcome.injected.total()
    if fault.inject is not None and len(told) < injections:
        outcome.broken.append(f"only {len(told)} of {injections} injections within {TRIAL_S:.0f} s")
    return outcome


async def _ask(
    running: Site, fault: Fault, chance: random.Random, told: list[str], exchanges: int, injections: int, clients: int
) -> list[Seen]:
    """Clients ask until enough was asked and injected."""
    seen: list[Seen] = []
    until = time.monotonic() + TRIAL_S
    stopping = False

    def enough() -> bool:
        return stopping or time.monotonic() > until or (len(seen) >= exchanges and len(told) >= injections)

    async def client(number: int) -> None:
        one = Client("127.0.0.1", running.port)
        count = 0
        while not enough():
            found = await one.ask(f"{fault.name}-{number}-{count}", (number + count) % 2 == 0, give_up=enough)
            count += 1
            if found is not None:
                seen.append(found)
                if found.verdict == "error":
                    await asyncio.sleep(BACK_OFF_S)
        one.close()

    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    try:
        async with injecting(fault, running, chance, told):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        stopping = True
        await asyncio.gather(*tasks)
    return seen


def stored(state: Path) -> set[str]:
    """Every exchange id in the store."""
    path = state / "records.sqlite"
    if not os.path.exists(path):
        return set()
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
        return {each for (each,) in store.execute("SELECT exchange_id FROM records")}


async def unrecorded(running: Site, told: set[str]) -> int:
    """How many exchanges that clients were told of are not in the store, even after a while."""
    until = time.monotonic() + RECORDED_S
    while (missing := told - stored(running.state)) and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    with contextlib.suppress(Exception):
        await running.acknowledge()
    return len(missing)


async def counted_as_dropped(running: Site) -> int:
    """What the gateway itself says it lost."""
    assert running.gateway is not None
    return int(await running.gateway.count("headgate_records_dropped_total"))


def _reckon(outcome: Outcome, fault: Fault, seen: list[Seen], journal: Generations, missing: int, forgotten: int, injections: int) -> None:
    """Count, and name every promise that was broken."""
    counts = outcome.counts
    counts.update(dict.fromkeys(KINDS, 0))
    for each in seen:
        if each.verdict == "lost" and each.unheard and each.tag not in journal.tags:
            each.verdict = "turned_away"
    counts.update(each.verdict for each in seen)
    counts["exchanges"] = len(seen)
    counts["unrecorded"], counts["forgotten"] = missing, forgotten
    counts["again"], counts["doubled"] = journal.again, journal.doubled
    for each in seen:
        if each.verdict != "whole":
            heard = " (unheard, kept connection)" if each.unheard and each.kept else " (unheard)" if each.unheard else ""
            outcome.details[f"{each.verdict}{' stream' if each.stream else ''}: {each.detail[:100]}{heard}"] += 1
    for name in NEVER:
        if counts[name]:
            outcome.broken.append(f"{counts[name]} answers {name}")
    if counts["lost"] and not fault.may_lose:
        outcome.broken.append(f"{counts['lost']} connections lost")
    if counts["turned_away"] > fault.may_turn_away * injections:
        outcome.broken.append(f"{counts['turned_away']} requests turned away without a word")
    if journal.doubled:
        outcome.broken.append(f"{journal.doubled} requests generated twice")
    if forgotten:
        outcome.broken.append(f"{forgotten} exchanges acknowledged as recorded are gone")
    if missing and not fault.may_miss_records:
        outcome.broken.append(f"{missing} exchanges not on record")
    if any(each.verdict == "error" and each.status in (429, 503) and not each.retry_after for each in seen):
        outcome.broken.append("a 429 or 503 without retry-after")
