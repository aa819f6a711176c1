"""Where records are kept: the interface, and the store in memory that tests use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from gateway.link.messages import ExchangeRecord

RECENT_MAX = 1_000
"""Records that one `recent` gives at the most."""
PAGE_RECORDS_MAX = 2_000
"""Records that one page of `audited` looks at."""
PRUNE_RECORDS_MAX = 500
"""Records that one `prune` deletes at the most, so that writing is never kept waiting long."""
RECORD_BYTES_ROUGH = 1_500
"""What a record without content weighs, roughly: for bounds of memory, not for accounts."""


class StoreStats(msgspec.Struct, frozen=True):
    """What a store holds. `bytes` is the room it takes, `oldest` and `newest` are Unix times, None in an empty store."""

    records: int
    bytes: int
    oldest: float | None
    newest: float | None


class Pruned(msgspec.Struct, frozen=True):
    """What one `prune` deleted, by why."""

    by_age: int
    by_size: int
    more: bool
    """There is more to delete: call again."""
    bytes: int
    """The room the store takes now."""


class AuditedPage(msgspec.Struct, frozen=True):
    """Some audited records. `next`: the place that the next page begins after, None at the end."""

    records: list[ExchangeRecord]
    next: int | None


class RecordStore(Protocol):
    """Keeps records. Every method raises `StoreError` when the store cannot do it (a full disk, say), and the next call tries
    anew: a store recovers by itself. No method blocks the event loop."""

    async def open(self) -> None:
        """Make the store ready. Optional, since every method does so, but here an unusable store is noticed at once."""
        ...

    async def add(self, batch: Sequence[ExchangeRecord]) -> int:
        """Keep all of `batch`, or raise and keep none; durable on return. A record whose exchange id is there already is
        left out. Returns how many were new."""
        ...

    async def get(self, exchange_id: str) -> ExchangeRecord | None: ...

    async def recent(self, limit: int, *, route: str | None = None, since: float | None = None) -> list[ExchangeRecord]:
        """The latest records, newest first: at most `limit` (and `RECENT_MAX`), of `route`, started at or after `since`
        (Unix time)."""
        ...

    async def audited(self, route: str, after: int) -> AuditedPage:
        """The audited records of `route`, without content and in the order they were stored: those among the next
        `PAGE_RECORDS_MAX` of all records after the place `after`, 0 for the beginning."""
        ...

    async def stats(self) -> StoreStats: ...

    async def prune(self, *, started_before: float, bytes_max: int) -> Pruned:
        """Delete some of the records that started before that Unix time, and of the oldest while the store takes more than
        `bytes_max`. One bounded step."""
        ...

    async def close(self) -> None: ...


def rough_bytes(record: ExchangeRecord) -> int:
    """What a record weighs in memory, roughly."""
    content = record.content
    return RECORD_BYTES_ROUGH + (0 if content is None else len(content.request) + len(content.response))


class MemoryStore:
    """A `RecordStore` in memory, for tests."""

    def __init__(self) -> None:
        self._records: dict[str, ExchangeRecord] = {}

    async def open(self) -> None: ...

    async def add(self, batch: Sequence[ExchangeRecord]) -> int:
        before = len(self._records)
        for record in batch:
            self._records.setdefault(record.exchange_id, record)
        return len(self._records) - before

    async def get(self, exchange_id: str) -> ExchangeRecord | None:
        return self._records.get(exchange_id)

    async def recent(self, limit: int, *, route: str | None = None, since: float | None = None) -> list[ExchangeRecord]:
        chosen = [
            record
            for record in reversed(self._oldest_first())
            if (route is None or record.route == route) and (since is None or record.started_at >= since)
        ]
        return chosen[: max(0, min(limit, RECENT_MAX))]

    async def audited(self, route: str, after: int) -> AuditedPage:
        page = list(self._records.values())[after : after + PAGE_RECORDS_MAX]
        end = after + len(page)
        found = [msgspec.structs.replace(record, content=None) for record in page if record.route == route and record.audits]
        return AuditedPage(found, end if end < len(self._records) else None)

    async def stats(self) -> StoreStats:
        times = [record.started_at for record in self._records.values()]
        return StoreStats(len(times), self._bytes(), min(times, default=None), max(times, default=None))

    async def prune(self, *, started_before: float, bytes_max: int) -> Pruned:
        deleted = [0, 0]
        for record in self._oldest_first()[:PRUNE_RECORDS_MAX]:
            too_old = record.started_at < started_before
            if not too_old and self._bytes() <= bytes_max:
                break
            del self._records[record.exchange_id]
            deleted[0 if too_old else 1] += 1
        return Pruned(deleted[0], deleted[1], sum(deleted) == PRUNE_RECORDS_MAX, self._bytes())

    async def close(self) -> None: ...

    def _oldest_first(self) -> list[ExchangeRecord]:
        return sorted(self._records.values(), key=lambda record: record.started_at)

    def _bytes(self) -> int:
        return sum(map(rough_bytes, self._records.values()))
