"""What a record costs in the controller, all of it but reading the socket: the real end of the link, consumer, store and sinks, in
one process, given the frames that a real worker's objects made (`loadtests.interpreter`: half of the exchanges streamed).

`python -m loadtests.controller [--batch 400] [--profile plain|otlp]` prints JSON: microseconds of CPU of all threads, best and median of
several rounds, each into a file of its own; `plain` without exporters, `otlp` with metrics of calls and the sampled spans.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import uvloop
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from gateway.link.framing import encode_frame
from gateway.link.messages import Ack, Hello, OutboxLimits, Records, Up
from gateway.link.server import LinkServer, Worker
from gateway.records.call_metrics import CallMetrics
from gateway.records.consumer import Consumer, Sink
from gateway.records.spans import Spans
from gateway.records.sqlite import SqliteStore
from gateway.telemetry.metrics import Exposition
from gateway.telemetry.tracing import SpanQueue
from loadtests.interpreter import Bench
from policies import schema


class NoSpans(SpanExporter):
    """Takes spans and drops them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Deaf(asyncio.Transport):
    """The worker's end: acknowledgements are written to nobody."""

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None: ...


def hello_frame() -> bytes:
    """A worker's first word."""
    return encode_frame(Hello(0, 0, "bench", ""))


def frames(records: int, batch: int) -> list[bytes]:
    """What a worker would send of so many exchanges, `batch` together."""
    made: list[bytes] = []
    bench = Bench(made.append, OutboxLimits(batch_records_max=batch))
    for _ in range(records // 2):
        bench.one_request()
        bench.begin_stream()
        bench.end_stream()
    return made


async def one_round(sent: Sequence[bytes], together: int, folder: str, otlp: bool) -> float:
    """CPU microseconds a record of taking in these frames, `together` of them stored before the next ones come."""
    exposition = Exposition()
    sinks: list[Sink] = []
    queue = SpanQueue("", exposition, exporter=NoSpans())
    if otlp:
        sinks = [Spans(queue, exposition), CallMetrics()]
    store = SqliteStore(str(Path(folder, "records.sqlite")))
    consumer = Consumer(store, exposition, sinks, schema.Records)

    def on_message(worker: Worker, message: Up) -> None:
        if isinstance(message, Records):
            consumer.take(message.records, lambda: worker.send(Ack(message.sequence)))

    server = LinkServer("", on_hello=lambda worker: None, on_message=on_message, on_gone=lambda worker: None)
    connection = cast(asyncio.Protocol, server.protocol())
    connection.connection_made(Deaf())
    connection.data_received(hello_frame())
    await store.open()
    consumer.start()
    await consumer.flush()
    begun = time.process_time()
    for at in range(0, len(sent), together):
        for frame in sent[at : at + together]:
            connection.data_received(frame)
        await consumer.flush()
    spent = time.process_time() - begun
    stored = (await store.stats()).records
    await consumer.close()
    await store.close()
    connection.connection_lost(None)
    queue.close()
    if not stored or exposition.value("headgate_records_stored_total") != stored:
        raise SystemExit(f"the benchmark does not work: {stored} records are stored")
    return spent / stored * 1e6


def measured(sent: Sequence[bytes], together: int, otlp: bool) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return uvloop.run(one_round(sent, together, folder, otlp))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=40_000, help="of a round")
    parser.add_argument("--batch", type=int, default=400, help="records that arrive together")
    parser.add_argument("--together", type=int, default=2, help="batches that are stored together: a worker's of one GATHER_S")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--profile", choices=["plain", "otlp"], help="of the event loop's thread")
    args = parser.parse_args()
    sent = frames(args.records, args.batch)
    if args.profile:
        profile = cProfile.Profile()
        profile.enable()
        measured(sent, args.together, args.profile == "otlp")
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
        return
    found: dict[str, list[float]] = {"plain": [], "otlp": []}
    for _ in range(args.rounds):
        for name, each in found.items():
            each.append(measured(sent, args.together, name == "otlp"))
    result: dict[str, object] = {"records": args.records, "batch": args.batch, "python": sys.version.split()[0]}
    for name, each in found.items():
        result |= {f"us_{name}": round(statistics.median(each), 2), f"us_{name}_best": round(min(each), 2)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
