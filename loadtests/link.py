"""What the link between worker and controller costs, and what a worker does while its controller is slow, stopped or dead:
`python -m loadtests.link [--seconds 4] [--only stopped]`.

Cost: microseconds of CPU a record at either end of the link, best of several rounds, with the frames of real records and without the
socket (`loadtests.controller` has what the store and the exporters add). Behaviour: 32 clients ask a gateway, first while all is well and
then in a state: `slow` (the controller is stopped nine tenths of the time), `stopped` (all the time), `dead` (killed whenever it is back).
Told are latencies and the worker's CPU a request beside those while all was well, and where the records went.

Prints JSON. Exit code 1: a client saw an error, or an exchange is neither on record nor counted as dropped.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec

from gateway.link.framing import FrameReader
from gateway.link.messages import Ack, ExchangeRecord, OutboxLimits, Records, Up
from gateway.link.outbox import Outbox
from gateway.link.server import LinkServer, Worker
from gateway.telemetry.counters import Counters
from loadtests import processes
from loadtests.controller import Deaf, frames, hello_frame
from loadtests.soak.crowds import before_mocks, generate, mocks
from loadtests.subjects import records_stored
from tests.e2e.gateway import Gateway, eventually

CLIENTS = 32
RECORDS = 4_000
ROUNDS = 15
SLOW_S = (0.9, 0.1)
"""Stopped and going, in turn."""
KILLED_EVERY_S = 0.1
TAKEN_S = 60.0
"""What a controller that is back is given to take what waits."""


def worker_end(records: Sequence[ExchangeRecord], batch: int) -> None:
    """Encode, queue, frame, and hear that it has arrived."""
    outbox = Outbox(Counters(), OutboxLimits(batch_records_max=batch))
    for record in records:
        outbox.put(record)
        if outbox.batch_is_full():
            outbox.next_frame()
            outbox.acknowledge(outbox.sequence)


def controller_end(sent: Sequence[bytes]) -> None:
    """Take frames apart and acknowledge them."""

    def on_message(worker: Worker, message: Up) -> None:
        if isinstance(message, Records):
            worker.send(Ack(message.sequence))

    server = LinkServer("", on_hello=lambda worker: None, on_message=on_message, on_gone=lambda worker: None)
    connection = cast(asyncio.Protocol, server.protocol())
    connection.connection_made(Deaf())
    connection.data_received(hello_frame())
    for frame in sent:
        connection.data_received(frame)
    connection.connection_lost(None)


def best_us(work: Callable[[], None]) -> float:
    """CPU microseconds a record, of the round that was least disturbed."""
    found = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        work()
        found.append((time.process_time() - begun) / RECORDS * 1e6)
    return round(min(found), 2)


async def cost(batch: int) -> dict[str, float]:
    """Of one record at either end, in batches of so many. (In a loop: the controller's end asks for one.)"""
    sent = frames(RECORDS, batch)
    reader = FrameReader(msgspec.msgpack.Decoder(Records))
    records = [record for frame in sent for message in reader.feed(frame) for record in message.records]
    return {
        "bytes": round(sum(map(len, sent)) / len(records)),
        "worker_us": best_us(lambda: worker_end(records, batch)),
        "controller_us": best_us(lambda: controller_end(sent)),
    }


async def slow(running: Gateway) -> None:
    (controller,) = running.pids("controller")
    try:
        while True:
            for number, seconds in zip((signal.SIGSTOP, signal.SIGCONT), SLOW_S, strict=True):
                os.kill(controller, number)
                await asyncio.sleep(seconds)
    finally:
        os.kill(controller, signal.SIGCONT)


async def stopped(running: Gateway) -> None:
    (controller,) = running.pids("controller")
    os.kill(controller, signal.SIGSTOP)
    try:
        await asyncio.Event().wait()
    finally:
        os.kill(controller, signal.SIGCONT)


async def dead(running: Gateway) -> None:
    while True:
        for pid in running.pids("controller"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(KILLED_EVERY_S)


STATES = {"slow": slow, "stopped": stopped, "dead": dead}


async def asked(running: Gateway, seconds: float) -> dict[str, Any]:
    """What 32 clients saw, and the worker's CPU a request."""
    (worker,) = running.pids("worker")
    before = processes.usage(worker)["worker"].cpu_s
    seen = await generate(running.data, "--concurrency", str(CLIENTS), "--seconds", str(seconds))
    spent = processes.usage(worker)["worker"].cpu_s - before
    shown = {name: round(seen[name]) for name in ("latency_p50_us", "latency_p99_us") if name in seen}
    return {"requests": seen["requests"], "errors": seen["errors"], "worker_us": round(spent / max(1, seen["requests"]) * 1e6, 1), **shown}


async def behaviour(state: str, seconds: float) -> dict[str, Any]:
    """Beside the same gateway while all is well. `broken` names what must not be."""
    async with mocks(1) as ports, before_mocks(ports) as running:
        store = running.state / "records.sqlite"
        warm = await asked(running, 0.3)
        well = await asked(running, seconds)
        disturbing = asyncio.create_task(STATES[state](running))
        await asyncio.sleep(0)
        try:
            found = await asked(running, seconds)
        finally:
            disturbing.cancel()
            (ended,) = await asyncio.gather(disturbing, return_exceptions=True)
        answered = warm["requests"] + well["requests"] + found["requests"]
        dropped = stored = 0

        async def added_up() -> bool:
            nonlocal dropped, stored
            with contextlib.suppress(Exception):  # the controller is not back yet
                dropped, stored = int(await running.count("headgate_records_dropped_total")), records_stored(store)
            return dropped + stored >= answered

        broken = [repr(ended)] if isinstance(ended, Exception) else []
        begun = time.monotonic()
        with contextlib.suppress(TimeoutError):
            await eventually(added_up, TAKEN_S)
    broken += [f"clients saw {each['errors']}" for each in (warm, well, found) if each["errors"]]
    if dropped + stored != answered:
        broken.append(f"{answered} were answered, {stored} are on record and {dropped} counted as dropped")
    return {
        "well": well,
        state: found,
        "on_record": stored,
        "dropped": dropped,
        "taken_in_after_s": round(time.monotonic() - begun, 1),
        "broken": broken,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of asking, well and in each state")
    parser.add_argument("--only", action="append", choices=("cost", *STATES), help="may be repeated; without it all")
    args = parser.parse_args(argv)
    if not 0 < args.seconds <= 60:
        parser.error("--seconds is above 0 and at most 60")
    chosen = args.only or ["cost", *STATES]
    found: dict[str, Any] = {}
    if "cost" in chosen:
        found["cost"] = {f"batches of {batch}": asyncio.run(cost(batch)) for batch in (400, 50)}
    for state in (each for each in STATES if each in chosen):
        found[state] = asyncio.run(behaviour(state, args.seconds))
    print(json.dumps(found, indent=1))
    return int(any(found[state]["broken"] for state in STATES if state in found))


if __name__ == "__main__":
    sys.exit(main())
