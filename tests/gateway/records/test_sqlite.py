"""What only a store on a disk can get wrong."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import sqlite3
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from gateway.errors import StoreError, StoreFullError
from gateway.link.messages import AuditRecord
from gateway.records import sqlite
from gateway.records.sqlite import SCHEMA_VERSION, STATEMENT_ROWS, SqliteStore
from tests.gateway.records.examples import CALL, RECORD, content, record

ALL = 1 << 60

WRITER = """
import asyncio, sys
from gateway.records.sqlite import SqliteStore
from tests.gateway.records.examples import content, record

async def main(path):
    store = SqliteStore(path)
    for batch in range(1_000_000):
        await store.add([record(batch * 10 + n, content=content(b"x" * 20_000)) for n in range(10)])
        print(batch, flush=True)

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "records.sqlite")


@pytest.mark.parametrize("kill_after", [1, 7, 20])
async def test_a_killed_writer_leaves_every_acknowledged_batch_whole(path: str, kill_after: int) -> None:
    writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, path, stdout=asyncio.subprocess.PIPE)
    assert writer.stdout is not None
    acknowledged = -1
    while acknowledged < kill_after:
        acknowledged = int(await writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    rest = await writer.stdout.read()
    await writer.wait()
    # The last line may be cut by the kill; only a whole one is an acknowledgement.
    acknowledged = max([acknowledged, *map(int, rest.rpartition(b"\n")[0].split())])

    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        stored = connection.execute("SELECT count(*) FROM records").fetchone()[0]
    assert stored % 10 == 0, "half a batch"
    assert stored >= (acknowledged + 1) * 10
    store = SqliteStore(path)
    for number in range((acknowledged + 1) * 10):
        assert await store.get(f"ex-{number}") == record(number, content=content(b"x" * 20_000))
    await store.add([record(-1)])
    await store.close()


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size`: to SQLite, a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_is_an_error_and_the_store_recovers_by_itself(path: str) -> None:
    store = SqliteStore(path)
    await store.add([record(1)])
    with file_size_limit(os.stat(path + "-wal").st_size + 10_000):
        for _ in range(3):
            with pytest.raises(StoreFullError, match=r"records\.sqlite"):
                await store.add([record(n, content=content(b"x" * 100_000)) for n in (2, 3)])
        assert await store.get("ex-1") == record(1)
    assert await store.get("ex-2") is None
    assert await store.add([record(2), record(3)]) == 2
    assert (await store.stats()).records == 3
    await store.close()


async def test_a_folder_that_is_not_there_is_an_error_until_it_is(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "later" / "records.sqlite"))
    with pytest.raises(StoreError, match="later"):
        await store.open()
    (tmp_path / "later").mkdir()
    assert await store.add([RECORD]) == 1
    await store.close()


async def test_a_read_only_store_is_an_error(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writable = sqlite3.connect
    store = SqliteStore(path)
    await store.add([record(1)])
    await store.close()

    def read_only(database: str, **options: float) -> sqlite3.Connection:
        return writable(f"file:{database}?mode=ro", uri=True, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(sqlite.sqlite3, "connect", read_only)
    with pytest.raises(StoreError, match="readonly"):
        await store.add([record(2)])
    monkeypatch.undo()
    assert await store.add([record(2)]) == 1
    await store.close()


def content_of(path: str) -> bytes:
    return Path(path).read_bytes()


async def test_a_file_of_a_newer_headgate_is_refused_and_left_alone(path: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(f"CREATE TABLE later (a); PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = content_of(path)
    store = SqliteStore(path)
    with pytest.raises(StoreError, match="newer"):
        await store.open()
    with pytest.raises(StoreError, match="newer"):
        await store.add([RECORD])
    assert content_of(path) == before


@pytest.mark.parametrize("garbage", [b"not a database" * 100, b"\x00" * 5000])
def test_a_file_that_is_no_store_is_refused(path: str, garbage: bytes) -> None:
    Path(path).write_bytes(garbage)
    with pytest.raises(StoreError, match="not a database"):
        asyncio.run(SqliteStore(path).open())


async def test_another_programs_database_is_refused(path: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    with pytest.raises(StoreError, match="not a record store"):
        await SqliteStore(path).open()


async def test_a_record_that_cannot_be_read_is_an_error_of_its_own(path: str) -> None:
    store = SqliteStore(path)
    await store.add([record(1), record(2)])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE records SET body = x'93' WHERE exchange_id = 'ex-1'")
    with pytest.raises(StoreError, match="cannot be read"):
        await store.get("ex-1")
    assert await store.get("ex-2") == record(2)
    await store.close()


async def test_only_its_owner_may_read_it(path: str) -> None:
    store = SqliteStore(path)
    await store.add([RECORD])
    for suffix in ("", "-wal", "-shm"):
        assert stat.S_IMODE(os.stat(path + suffix).st_mode) == 0o600
    await store.close()


async def test_pruning_gives_room_back_to_the_file_system(path: str) -> None:
    store = SqliteStore(path)
    for start in range(0, 100, 10):
        await store.add([record(start + n, content=content(os.urandom(100_000))) for n in range(10)])
    await store.close()  # with the log in the file
    full = os.stat(path).st_size
    more = True
    while more:
        more = (await store.prune(started_before=record(90).started_at, bytes_max=ALL)).more
    await store.close()
    assert (await store.stats()).records == 10
    assert os.stat(path).st_size < full / 5
    await store.close()


async def test_the_event_loop_goes_on_while_the_store_waits_for_a_lock(path: str) -> None:
    store = SqliteStore(path)
    await store.open()
    locked = sqlite3.connect(path, isolation_level=None)
    locked.execute("BEGIN IMMEDIATE")
    adding = asyncio.ensure_future(store.add([RECORD]))
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert not adding.done()
    locked.execute("COMMIT")
    assert await adding == 1
    locked.close()
    await store.close()


async def test_operations_that_wait_are_bounded(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "CALLS_MAX", 2)
    store = SqliteStore(path)
    release = threading.Event()
    monkeypatch.setattr(store, "_stats", lambda connection: release.wait(10))
    waiting = [asyncio.ensure_future(store.stats()) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(StoreError, match="wait for the record store"):
        await store.get("ex-1")
    release.set()
    await asyncio.gather(*waiting)
    assert await store.get("ex-1") is None
    await store.close()


async def test_whole_statements_and_what_is_left_over_count_what_is_new(path: str) -> None:
    store = SqliteStore(path)
    for count in (1, STATEMENT_ROWS - 1, STATEMENT_ROWS, STATEMENT_ROWS + 1, 3 * STATEMENT_ROWS + 7):
        before = (await store.stats()).records
        assert await store.add([record(n) for n in range(count)]) == count - before
        assert (await store.stats()).records == count
    assert await store.get(f"ex-{3 * STATEMENT_ROWS + 6}") == record(3 * STATEMENT_ROWS + 6)
    await store.close()


OLD = """
CREATE TABLE records (
    id INTEGER PRIMARY KEY, exchange_id TEXT NOT NULL UNIQUE, started_at REAL NOT NULL, route TEXT NOT NULL, backend TEXT NOT NULL,
    code INTEGER NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX records_by_time ON records (started_at);
CREATE INDEX records_by_route ON records (route, started_at);
PRAGMA user_version = 1;
"""
"""Of version 1."""


async def test_a_file_of_an_older_headgate_is_brought_up_to_date_with_its_records(path: str) -> None:
    old = [record(1), record(2, route="other"), record(3)]
    with sqlite3.connect(path) as connection:
        connection.executescript(OLD)
        for each in old:
            row = (each.exchange_id, each.started_at, each.route, each.backend, each.code, each.key, msgspec.msgpack.encode(each))
            connection.execute("INSERT INTO records VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", row)
    for _ in range(2):  # the second time there is nothing to do
        store = SqliteStore(path)
        assert await store.add([record(2), record(4)]) in (1, 0)
        assert [each.exchange_id for each in await store.recent(9)] == ["ex-4", "ex-3", "ex-2", "ex-1"]
        await store.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        indexes = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    assert indexes == {"records_by_route", "sqlite_autoindex_records_1"}


def test_an_audit_of_an_older_headgate_has_its_call_and_none_before_it() -> None:
    found = msgspec.msgpack.decode(msgspec.msgpack.encode(["audit_accepted", "big", True, "", msgspec.to_builtins(CALL)]), type=AuditRecord)
    assert found == AuditRecord("audit_accepted", "big", True, "", CALL)
    assert found.calls == (CALL,)


async def test_no_search_reads_more_than_it_gives(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a seek in an index: SQLite's steps do not grow with the store."""
    steps = 0
    connect = sqlite3.connect

    def counting(database: str, **options: float) -> sqlite3.Connection:
        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        connection = connect(database, **options)  # type: ignore[call-overload]
        connection.set_progress_handler(count, 1)
        return connection  # type: ignore[no-any-return]

    monkeypatch.setattr(sqlite.sqlite3, "connect", counting)
    store = SqliteStore(path)
    spent: list[list[int]] = []
    for size in (300, 3_000):
        await store.add([record(n, route=f"route-{n % 3}") for n in range(size)])
        found = []
        for search in (
            store.get("ex-7"),
            store.recent(5),
            store.recent(5, route="route-1", since=1.0),
            store.recent(5, since=record(size - 2).started_at),
            store.prune(started_before=0.0, bytes_max=ALL),
        ):
            steps = 0
            assert await search != []
            found.append(steps)
        spent.append(found)
    assert all(large <= small * 1.2 for small, large in zip(*spent, strict=True)), spent
    await store.close()


async def test_records_of_many_routes_come_in_the_order_of_time(path: str) -> None:
    store = SqliteStore(path)
    chance = random.Random(3)
    numbers = list(range(60))
    chance.shuffle(numbers)
    await store.add([record(n, route=chance.choice(("", "a", "b", "ä"))) for n in numbers])
    assert [each.exchange_id for each in await store.recent(60)] == [f"ex-{n}" for n in reversed(range(60))]
    stats = await store.stats()
    assert (stats.oldest, stats.newest) == (record(0).started_at, record(59).started_at)
    await store.prune(started_before=record(20).started_at, bytes_max=ALL)
    assert {each.exchange_id for each in await store.recent(60)} == {f"ex-{n}" for n in range(20, 60)}
    await store.close()
