"""The record store on SQLite: one file in WAL mode, one thread of its own, so that the event loop never waits for a disk.

A record is a MessagePack blob beside the few columns that are searched by. Fields are only ever added to records, with a default,
so that old blobs stay readable; the layout of the table has its version in `PRAGMA user_version`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import heapq
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from operator import itemgetter
from typing import TypeVar

import msgspec

from gateway.errors import StoreError, StoreFullError
from gateway.link.messages import ExchangeRecord
from gateway.records.store import PAGE_RECORDS_MAX, PRUNE_RECORDS_MAX, RECENT_MAX, AuditedPage, Pruned, StoreStats

SCHEMA_VERSION = 2
PRUNE_BYTES_MAX = 16 * 1024 * 1024
"""Bytes of records that one `prune` deletes at the most, besides the one that goes over it."""
VACUUM_PAGES_MAX = 4_096
"""Pages that one `prune` gives back to the file system at the most."""
WAL_BYTES_MAX = 64 * 1024 * 1024
"""What the write-ahead log is cut to after a checkpoint."""
STATEMENT_ROWS = 100
"""Records that one statement inserts, where there are so many: a quarter cheaper than one each."""
CALLS_MAX = 256
"""Operations that may wait for the thread; more are refused."""
BUSY_TIMEOUT_S = 5.0
"""How long a lock held by another process (someone's `sqlite3` shell) is waited for."""

CACHE_KIB = 16 * 1024
"""Of pages that the store keeps: within a second exchange ids are random, so each new one may change another page of their index."""
CHECKPOINT_PAGES = 4_000
"""Of the log, before it is written back: a page that many transactions changed meanwhile is written back once."""

# auto_vacuum must come before the first table. NORMAL: a crash of the process loses nothing that was committed, a crash of
# the machine at most the last commits, and neither breaks the file.
_PRAGMAS = f"""
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA journal_size_limit = {WAL_BYTES_MAX};
PRAGMA cache_size = -{CACHE_KIB};
PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};
"""
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    exchange_id TEXT NOT NULL UNIQUE,
    started_at REAL NOT NULL,
    route TEXT NOT NULL,
    backend TEXT NOT NULL,
    code INTEGER NOT NULL,
    key TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX records_by_route ON records (route, started_at);
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
# From each version to the next. 1: there was an index by time alone, which cost a record a seventh of its insert.
_MIGRATIONS = {1: "BEGIN IMMEDIATE; DROP INDEX IF EXISTS records_by_time; PRAGMA user_version = 2; COMMIT;"}
# The names of all routes, each found by a seek, not by reading every entry of the index.
_ROUTES = """
WITH RECURSIVE names (route) AS (
    SELECT min(route) FROM records
    UNION ALL SELECT (SELECT min(route) FROM records WHERE route > names.route) FROM names WHERE names.route IS NOT NULL
) SELECT route FROM names WHERE route IS NOT NULL
"""

_ROW = "(?, ?, ?, ?, ?, ?, ?)"
_INSERT = f"INSERT OR IGNORE INTO records (exchange_id, started_at, route, backend, code, key, body) VALUES {_ROW}"
_INSERT_MANY = _INSERT + f", {_ROW}" * (STATEMENT_ROWS - 1)
_NO_ROOM_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)
"""What SQLite says of a disk, a quota or a limit of a file's size that leaves no room; the second one of a broken disk, too."""
_NO_ROOM_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

T = TypeVar("T")


class SqliteStore:
    """A `RecordStore` in the file `path`. One process writes it; others may read."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="records")
        self._waiting = 0
        # What follows is the thread's alone.
        self._connection: sqlite3.Connection | None = None
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(ExchangeRecord)

    async def open(self) -> None:
        await self._call(lambda connection: None)

    async def add(self, batch: Sequence[ExchangeRecord]) -> int:
        return await self._call(lambda connection: self._add(connection, batch))

    async def get(self, exchange_id: str) -> ExchangeRecord | None:
        found = await self._call(lambda connection: self._select(connection, "WHERE exchange_id = ?", (exchange_id,)))
        return found[0] if found else None

    async def recent(self, limit: int, *, route: str | None = None, since: float | None = None) -> list[ExchangeRecord]:
        bounded = max(0, min(limit, RECENT_MAX))
        return await self._call(lambda connection: self._recent(connection, bounded, route, since))

    async def audited(self, route: str, after: int) -> AuditedPage:
        return await self._call(lambda connection: self._audited(connection, route, after))

    async def stats(self) -> StoreStats:
        return await self._call(self._stats)

    async def prune(self, *, started_before: float, bytes_max: int) -> Pruned:
        return await self._call(lambda connection: self._prune(connection, started_before, bytes_max))

    async def close(self) -> None:
        """Finish what waits and close the file. A later call opens it anew."""
        with contextlib.suppress(StoreError):
            await self._run(self._disconnect)

    async def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._run(lambda: self._guarded(work))

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= CALLS_MAX:
            raise StoreError(f"{CALLS_MAX} operations wait for the record store already")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= 1

    # From here on everything runs on the thread.

    def _guarded(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._connection is None:
                self._connection = _connect(self._path)
            with self._connection:  # a transaction: committed whole, or rolled back
                return work(self._connection)
        except (sqlite3.Error, OSError) as error:
            # A connection that failed is not trusted again; the next call opens the file anew, and so recovers by itself.
            self._disconnect()
            kind = StoreFullError if _is_no_room(error) else StoreError
            raise kind(f"record store {self._path}: {error}") from error
        except msgspec.DecodeError as error:
            raise StoreError(f"record store {self._path}: a record that cannot be read: {error}") from error

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _add(self, connection: sqlite3.Connection, batch: Sequence[ExchangeRecord]) -> int:
        rows = [(r.exchange_id, r.started_at, r.route, r.backend, r.code, r.key, self._encoder.encode(r)) for r in batch]
        whole = len(rows) - len(rows) % STATEMENT_ROWS
        new = sum(
            connection.execute(_INSERT_MANY, tuple(chain.from_iterable(rows[at : at + STATEMENT_ROWS]))).rowcount
            for at in range(0, whole, STATEMENT_ROWS)
        )
        return new + (connection.executemany(_INSERT, rows[whole:]).rowcount if whole < len(rows) else 0)

    def _select(self, connection: sqlite3.Connection, tail: str, values: Sequence[object]) -> list[ExchangeRecord]:
        return [self._decoder.decode(body) for (body,) in connection.execute(f"SELECT body FROM records {tail}", values)]

    def _recent(self, connection: sqlite3.Connection, limit: int, route: str | None, since: float | None) -> list[ExchangeRecord]:
        query = "SELECT started_at, body FROM records WHERE route = ? AND started_at >= ? ORDER BY started_at DESC LIMIT ?"
        earliest = float("-inf") if since is None else since
        routes = _routes(connection) if route is None else [route]
        each = [connection.execute(query, (name, earliest, limit)) for name in routes]
        newest = heapq.merge(*each, key=itemgetter(0), reverse=True)
        return [self._decoder.decode(body) for _, body in islice(newest, limit)]

    def _audited(self, connection: sqlite3.Connection, route: str, after: int) -> AuditedPage:
        found: list[ExchangeRecord] = []
        rows, end = 0, after
        page = "SELECT id, CASE WHEN route = ? THEN body END FROM records WHERE id > ? ORDER BY id LIMIT ?"
        for place, body in connection.execute(page, (route, after, PAGE_RECORDS_MAX)):
            rows, end = rows + 1, place
            if body is not None and (record := self._decoder.decode(body)).audits:
                found.append(msgspec.structs.replace(record, content=None))
        return AuditedPage(found, end if rows == PAGE_RECORDS_MAX else None)

    def _stats(self, connection: sqlite3.Connection) -> StoreStats:
        (count,) = connection.execute("SELECT count(*) FROM records").fetchone()
        # One query for both would read every entry: SQLite seeks for a lone min or max only.
        query = "SELECT (SELECT min(started_at) FROM records WHERE route = ?1), (SELECT max(started_at) FROM records WHERE route = ?1)"
        spans = [connection.execute(query, (name,)).fetchone() for name in _routes(connection)]
        oldest, newest = min((span[0] for span in spans), default=None), max((span[1] for span in spans), default=None)
        return StoreStats(count, self._file_bytes(), oldest, newest)

    def _prune(self, connection: sqlite3.Connection, started_before: float, bytes_max: int) -> Pruned:
        excess = _used_bytes(connection) - bytes_max
        chosen: list[tuple[int]] = []
        by_age = freed = 0
        # length() of a blob reads its header, not its pages.
        query = "SELECT id, started_at, length(body) FROM records WHERE route = ? ORDER BY started_at LIMIT ?"
        each = [connection.execute(query, (name, PRUNE_RECORDS_MAX)) for name in _routes(connection)]
        for row, started_at, size in islice(heapq.merge(*each, key=itemgetter(1)), PRUNE_RECORDS_MAX):
            if freed >= PRUNE_BYTES_MAX or not (started_at < started_before or freed < excess):
                break
            by_age += started_at < started_before
            freed += size
            chosen.append((row,))
        for cursor in each:
            cursor.close()
        connection.executemany("DELETE FROM records WHERE id = ?", chosen)
        connection.commit()
        # It gives back one page a step, and `execute` makes a single step.
        connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES_MAX})")
        more = len(chosen) == PRUNE_RECORDS_MAX or freed >= PRUNE_BYTES_MAX or _pragma(connection, "freelist_count") > VACUUM_PAGES_MAX
        return Pruned(by_age, len(chosen) - by_age, more, self._file_bytes())

    def _file_bytes(self) -> int:
        sizes = 0
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                sizes += os.stat(self._path + suffix).st_size
        return sizes


def _connect(path: str) -> sqlite3.Connection:
    # Made here for its mode, which SQLite gives the log too: what people asked is nobody else's business.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)
    try:
        version = _pragma(connection, "user_version")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"record store {path} has version {version}, and this Headgate knows up to {SCHEMA_VERSION}: "
                "it was written by a newer one; run that, or move the file away"
            )
        connection.executescript(_PRAGMAS)
        if version == 0:
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise StoreError(f"{path} is a database, but not a record store")
            connection.executescript(_SCHEMA)
        for older in range(max(1, version), SCHEMA_VERSION if version else 0):
            connection.executescript(_MIGRATIONS[older])
        return connection
    except BaseException:
        connection.close()
        raise


def _is_no_room(error: sqlite3.Error | OSError) -> bool:
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM_ERRNOS
    return getattr(error, "sqlite_errorcode", None) in _NO_ROOM_CODES


def _routes(connection: sqlite3.Connection) -> list[str]:
    """Every route that has a record: a policy names few. What is sought by time alone is sought in each of them and merged, which is
    rare and cheap, so that no record pays for an index by time."""
    return [name for (name,) in connection.execute(_ROUTES)]


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _used_bytes(connection: sqlite3.Connection) -> int:
    """Of the pages that hold something: what deleting can lower at once, before the file shrinks."""
    return (_pragma(connection, "page_count") - _pragma(connection, "freelist_count")) * _pragma(connection, "page_size")
