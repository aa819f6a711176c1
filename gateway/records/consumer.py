"""Takes the workers' records off the link: redacts them, stores them, makes spans of them, forgets the old ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from gateway.errors import StoreError, StoreFullError
from gateway.link.messages import ExchangeRecord, OutboxLimits
from gateway.records.age import AgeClock
from gateway.records.preparation import Preparation
from gateway.records.store import RECORD_BYTES_ROUGH, RecordStore, rough_bytes
from gateway.tasks import TaskGroup
from gateway.telemetry.metrics import Exposition
from policies.schema import Records

log = logging.getLogger(__name__)

QUEUE_RECORDS_MAX = 20_000
QUEUE_BYTES_MAX = 64 * 1024 * 1024
"""Roughly, and at least what all workers may have sent unheard (`OutboxLimits`): the rest they keep. What comes while so much waits for the
store is dropped and counted."""
TRANSACTION_RECORDS_MAX = 2_000
"""Records that are stored together, unless one batch is larger."""
GATHER_S = 0.1
"""How long the first record waits for more to be stored with: each transaction writes whole pages of the index, however few the
records. The worker keeps what is not acknowledged; who asks for a record, or waits for all of them, is not kept waiting."""
RETRY_S = 0.25
"""A store that has no room is asked again so often. What waits for it is kept, within the queue's bounds."""
PRUNE_EVERY_S = 30.0
PRUNE_STEPS_MAX = 200
"""Steps of one round of pruning."""
LOG_EVERY_S = 10.0
"""A store that goes on failing is told of so often, not once a batch."""


class Sink(Protocol):
    """Is shown the records as they are kept, and makes spans or metrics of them. Called on a thread; never waits for a collector and
    never raises."""

    def take(self, records: Sequence[ExchangeRecord]) -> None: ...


class _Batch(msgspec.Struct):
    records: Sequence[ExchangeRecord]
    ack: Callable[[], None]
    bytes: int


class Consumer:
    """The way of a record in the controller. `policy` gives `records` of the policy in force; `workers` is how many send; `clock`, the
    time by which they age, is an `AgeClock` unless a test has its own."""

    def __init__(
        self,
        store: RecordStore,
        exposition: Exposition,
        sinks: Sequence[Sink],
        policy: Callable[[], Records],
        *,
        workers: int = 0,
        prune_every_s: float = PRUNE_EVERY_S,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._store = store
        self._sinks = tuple(sinks)
        self._policy = policy
        limits = OutboxLimits()
        window = workers * limits.window_batches_max
        self._records_max = max(QUEUE_RECORDS_MAX, window * limits.batch_records_max)
        batch_bytes = limits.batch_bytes_max + limits.batch_records_max * RECORD_BYTES_ROUGH
        self._bytes_max = max(QUEUE_BYTES_MAX, window * batch_bytes)
        self._prune_every_s = prune_every_s
        self._clock = clock or AgeClock(exposition.counter("headgate_records_clock_jumps_total")).now
        self._preparation = Preparation()
        self._queue: deque[_Batch] = deque()
        self._waiting = 0
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._gathered = asyncio.Event()
        """Somebody waits, or a transaction is full."""
        self._tasks = TaskGroup()
        self._full = False
        """The store has no room, and is asked again and again."""
        self._closing = asyncio.Event()
        self._closed = False
        self._logged_at = float("-inf")
        self._exposition = exposition
        self._queue_wait = exposition.counter("headgate_records_queue_wait")
        self._stored = exposition.counter("headgate_records_stored_total")
        self._store_bytes = exposition.counter("headgate_records_store_bytes")

    def start(self) -> None:
        """Begin to store and to prune; until then batches wait."""
        self._tasks.spawn(self._store_all(), name="store records")
        self._tasks.spawn(self._prune_always(), name="prune records")

    def take(self, records: Sequence[ExchangeRecord], ack: Callable[[], None]) -> None:
        """Take a batch; returns at once and never raises. `ack` is called, on the event loop, once the worker need not keep
        the batch any longer: it is durable, or it was dropped and counted."""
        batch = _Batch(records, ack, sum(map(rough_bytes, records)))
        full = self._waiting + len(records) > self._records_max or self._waiting_bytes + batch.bytes > self._bytes_max
        if self._closed or full:
            self._dropped("closed" if self._closed else "queue_full", len(records))
            _acknowledge(batch)
            return
        self._enqueue(batch)

    async def flush(self) -> None:
        """Wait until all that was taken before is stored, or dropped; not for a store that has no room. Before `start` and after
        `close` it does nothing."""
        if self._closed or not len(self._tasks) or (self._full and not self._closing.is_set()):
            return
        done = asyncio.Event()
        self._enqueue(_Batch((), done.set, 0))
        await done.wait()

    async def get(self, exchange_id: str) -> ExchangeRecord | None:
        """The record, as it is stored; what still waits is stored first. Raises `StoreError`."""
        await self.flush()
        return await self._store.get(exchange_id)

    async def prune(self) -> None:
        """Delete what is older than `keep_for`, and the oldest beyond `keep_max`, in bounded steps between which batches are
        stored."""
        policy = self._policy()
        try:
            for _ in range(PRUNE_STEPS_MAX):
                pruned = await self._store.prune(started_before=self._clock() - policy.keep_for, bytes_max=policy.keep_max)
                self._exposition.counter("headgate_records_deleted_total", "age").inc(pruned.by_age)
                self._exposition.counter("headgate_records_deleted_total", "size").inc(pruned.by_size)
                self._store_bytes.value = pruned.bytes
                if not pruned.more:
                    break
        except StoreError as error:
            self._failed("prune", error)

    async def close(self) -> None:
        """Store what waits, then stop. What a store without room refuses once more is dropped and counted. The store is left open."""
        self._closing.set()
        await self.flush()
        self._closed = True
        await self._tasks.close()

    def _enqueue(self, batch: _Batch) -> None:
        self._queue.append(batch)
        self._count_waiting(len(batch.records), batch.bytes)
        self._arrived.set()
        if not batch.records or self._waiting >= TRANSACTION_RECORDS_MAX:
            self._gathered.set()

    def _count_waiting(self, records: int, size: int) -> None:
        self._waiting += records
        self._waiting_bytes += size
        self._queue_wait.value = self._waiting

    async def _store_all(self) -> None:
        while True:
            await self._arrived.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER_S):
                    await self._gathered.wait()
            self._arrived.clear()
            self._gathered.clear()
            while self._queue:
                batches = self._next_batches()
                await self._store_batches(batches)
                for batch in batches:
                    self._count_waiting(-len(batch.records), -batch.bytes)
                    _acknowledge(batch)

    def _next_batches(self) -> list[_Batch]:
        """At least one; together at most one transaction's worth."""
        batches = [self._queue.popleft()]
        room = TRANSACTION_RECORDS_MAX - len(batches[0].records)
        while self._queue and len(self._queue[0].records) <= room:
            batches.append(self._queue.popleft())
            room -= len(batches[-1].records)
        return batches

    async def _store_batches(self, batches: Sequence[_Batch]) -> None:
        """Store them together, or drop and count them: a store that fails must not stop the gateway."""
        records = [record for batch in batches for record in batch.records]
        if not records:
            return
        try:
            prepared, lost = await asyncio.to_thread(self._prepare, records)
            for why, count in lost.items():
                self._exposition.counter("headgate_records_content_dropped_total", why).inc(count)
            self._stored.inc(await self._add(prepared, batches))
        except StoreError as error:
            self._failed("add", error)
            self._dropped("store", len(records))
        except Exception:
            log.exception("records could not be stored", extra={"records": len(records)})
            self._dropped("error", len(records))

    async def _add(self, records: Sequence[ExchangeRecord], batches: Sequence[_Batch]) -> int:
        """How many were new; waits for as long as there is no room for them, unless the end has come. Raises `StoreError`."""
        while True:
            try:
                new = await self._store.add(records)
            except StoreFullError as error:
                if self._closing.is_set():
                    raise
                self._failed("add", error)
                self._full = True
                for batch in (*batches, *self._queue):
                    if not batch.records:  # somebody waits in `flush`
                        _acknowledge(batch)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_S):
                        await self._closing.wait()
            else:
                self._full = False
                return new

    def _prepare(self, records: list[ExchangeRecord]) -> tuple[list[ExchangeRecord], dict[str, int]]:
        """On a thread: redaction takes its time, and so does the making of spans."""
        prepared, lost = self._preparation.prepare(records, self._policy().content)
        for sink in self._sinks:
            try:
                sink.take(prepared)
            except Exception:
                log.exception("no telemetry could be made of records", extra={"records": len(records), "sink": type(sink).__name__})
        return prepared, lost

    async def _prune_always(self) -> None:
        while True:
            await self.prune()
            await asyncio.sleep(self._prune_every_s)

    def _dropped(self, why: str, count: int) -> None:
        self._exposition.counter("headgate_records_dropped_total", why).inc(count)

    def _failed(self, operation: str, error: StoreError) -> None:
        self._exposition.counter("headgate_records_store_errors_total", operation).inc()
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            log.error("the record store failed", extra={"operation": operation, "error": str(error)})


def _acknowledge(batch: _Batch) -> None:
    try:
        batch.ack()
    except Exception:
        log.exception("a batch could not be acknowledged")
