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

from gateway.errors import StoreError
from gateway.link.messages import ExchangeRecord
from gateway.records.store import RecordStore, rough_bytes
from gateway.tasks import TaskGroup
from gateway.telemetry.metrics import Exposition
from policies.schema import Records

log = logging.getLogger(__name__)

QUEUE_RECORDS_MAX = 20_000
QUEUE_BYTES_MAX = 64 * 1024 * 1024
"""Roughly. What comes while so much waits for the store is dropped and counted."""
TRANSACTION_RECORDS_MAX = 500
"""Records that are stored together, unless one batch is larger."""
PRUNE_EVERY_S = 30.0
PRUNE_STEPS_MAX = 200
"""Steps of one round of pruning."""
LOG_EVERY_S = 10.0
"""A store that goes on failing is told of so often, not once a batch."""


class SpanSink(Protocol):
    """Makes spans of the sampled among these records. Called on a thread; never waits for a collector and never raises."""

    def take(self, records: Sequence[ExchangeRecord]) -> None: ...


class _Batch(msgspec.Struct):
    records: Sequence[ExchangeRecord]
    ack: Callable[[], None]
    bytes: int


class Consumer:
    """The way of a record in the controller. `policy` gives `records` of the policy in force."""

    def __init__(
        self, store: RecordStore, exposition: Exposition, spans: SpanSink | None, policy: Callable[[], Records]
    ) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Begin to store and to prune; until then batches wait."""
        raise NotImplementedError

    def take(self, records: Sequence[ExchangeRecord], ack: Callable[[], None]) -> None:
        """Take a batch; returns at once and never raises. `ack` is called, on the event loop, once the worker need not keep
        the batch any longer: it is durable, or it was dropped and counted."""
        raise NotImplementedError

    async def flush(self) -> None:
        """Wait until all that was taken before is stored, or dropped."""
        raise NotImplementedError

    async def get(self, exchange_id: str) -> ExchangeRecord | None:
        """The record, as it is stored; what still waits is stored first. Raises `StoreError`."""
        raise NotImplementedError

    async def close(self) -> None:
        """Store what waits, then stop. The store is left open."""
        raise NotImplementedError
