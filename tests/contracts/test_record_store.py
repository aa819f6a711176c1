"""What every record store must do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.records.sqlite import SqliteStore
from gateway.records.store import PAGE_RECORDS_MAX, PRUNE_RECORDS_MAX, RECENT_MAX, MemoryStore, RecordStore, StoreStats
from tests.gateway.records.examples import AUDITED, RECORD, content, record

ALL = 1 << 60


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    made: RecordStore = MemoryStore() if request.param == "memory" else SqliteStore(str(tmp_path / "records.sqlite"))
    yield made
    await made.close()


async def test_gives_back_what_it_was_given(store: RecordStore) -> None:
    full = record(1, content=content(b'{"a": "\xff"}', b"answer", truncated=True))
    assert await store.add([full, record(2)]) == 2
    assert await store.get("ex-1") == full
    assert await store.get("ex-2") == record(2)
    assert await store.get("ex-3") is None


async def test_keeps_the_first_of_an_exchange_id(store: RecordStore) -> None:
    assert await store.add([record(1, code=200)]) == 1
    assert await store.add([record(1, code=500), record(2), record(2)]) == 1
    found = await store.get("ex-1")
    assert found is not None
    assert found.code == 200
    assert (await store.stats()).records == 2


async def test_adds_nothing_from_an_empty_batch(store: RecordStore) -> None:
    assert await store.add([]) == 0


async def test_recent_is_newest_first_bounded_and_filtered(store: RecordStore) -> None:
    await store.add([record(n, route="a" if n % 2 else "b") for n in (3, 1, 2, 5, 4)])
    assert [r.exchange_id for r in await store.recent(3)] == ["ex-5", "ex-4", "ex-3"]
    assert [r.exchange_id for r in await store.recent(9, route="b")] == ["ex-4", "ex-2"]
    since = record(3).started_at
    assert [r.exchange_id for r in await store.recent(9, since=since)] == ["ex-5", "ex-4", "ex-3"]
    assert [r.exchange_id for r in await store.recent(9, route="a", since=since)] == ["ex-5", "ex-3"]
    assert await store.recent(9, route="none") == []
    assert await store.recent(0) == []
    assert await store.recent(-1) == []


async def test_recent_gives_at_most_its_limit(store: RecordStore) -> None:
    await store.add([record(n) for n in range(RECENT_MAX + 5)])
    assert len(await store.recent(ALL)) == RECENT_MAX


async def test_audited_records_come_in_pages_of_bounded_work(store: RecordStore) -> None:
    many = PAGE_RECORDS_MAX + 10
    batch = [replace(AUDITED if n % 500 == 0 else RECORD, exchange_id=f"ex-{n}", route="a", content=content(b"{}")) for n in range(many)]
    await store.add([*batch, replace(AUDITED, exchange_id="other", route="b")])
    first = await store.audited("a", 0)
    assert [each.exchange_id for each in first.records] == ["ex-0", "ex-500", "ex-1000", "ex-1500"]
    assert all(each.content is None and each.audits == AUDITED.audits for each in first.records)
    assert first.next is not None
    second = await store.audited("a", first.next)
    assert ([each.exchange_id for each in second.records], second.next) == (["ex-2000"], None)
    assert [each.exchange_id for each in (await store.audited("b", first.next)).records] == ["other"]
    assert (await store.audited("a", ALL)).records == []


async def test_stats(store: RecordStore) -> None:
    empty = await store.stats()
    assert (empty.records, empty.oldest, empty.newest) == (0, None, None)
    await store.add([record(2), record(1), record(3)])
    stats = await store.stats()
    assert stats == StoreStats(3, stats.bytes, record(1).started_at, record(3).started_at)
    assert stats.bytes > 0


async def test_prunes_by_age(store: RecordStore) -> None:
    await store.add([record(n) for n in range(1, 6)])
    pruned = await store.prune(started_before=record(3).started_at, bytes_max=ALL)
    assert (pruned.by_age, pruned.by_size, pruned.more) == (2, 0, False)
    assert {r.exchange_id for r in await store.recent(9)} == {"ex-3", "ex-4", "ex-5"}


async def test_prunes_the_oldest_by_size_until_it_fits(store: RecordStore) -> None:
    await store.add([record(n, content=content(b"x" * 100_000)) for n in range(40)])
    before = (await store.stats()).bytes
    limit = 2_000_000
    assert before > limit
    by_size = 0
    while (pruned := await store.prune(started_before=0, bytes_max=limit)).by_size:
        by_size += pruned.by_size
        assert pruned.by_age == 0
    left = sorted(int(r.exchange_id.removeprefix("ex-")) for r in await store.recent(99))
    assert left == list(range(by_size, 40))
    assert 15 <= len(left) <= 20


async def test_one_prune_is_bounded_and_says_that_there_is_more(store: RecordStore) -> None:
    await store.add([record(n) for n in range(PRUNE_RECORDS_MAX + 10)])
    first = await store.prune(started_before=ALL, bytes_max=ALL)
    assert (first.by_age, first.more) == (PRUNE_RECORDS_MAX, True)
    second = await store.prune(started_before=ALL, bytes_max=ALL)
    assert (second.by_age, second.more) == (10, False)
    assert (await store.stats()).records == 0


async def test_can_be_used_again_after_close(store: RecordStore) -> None:
    await store.open()
    await store.add([RECORD])
    await store.close()
    await store.close()
    assert await store.get(RECORD.exchange_id) == RECORD


@settings(max_examples=25, deadline=None)
@given(
    batches=st.lists(st.lists(st.tuples(st.integers(0, 12), st.sampled_from("ab")), max_size=8), max_size=5),
    since=st.integers(0, 12),
    limit=st.integers(0, 6),
)
async def test_sqlite_and_memory_agree(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, str]]], since: int, limit: int
) -> None:
    memory, sqlite = MemoryStore(), SqliteStore(str(tmp_path_factory.mktemp("s") / "records.sqlite"))
    for batch in batches:
        records = [record(number, route=route) for number, route in batch]
        assert await memory.add(records) == await sqlite.add(records)
    for route in (None, "a"):
        arguments = {"route": route, "since": record(since).started_at}
        assert await memory.recent(limit, **arguments) == await sqlite.recent(limit, **arguments)  # type: ignore[arg-type]
    await sqlite.close()
