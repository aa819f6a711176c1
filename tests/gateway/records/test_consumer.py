"""The way of a record in the controller: from the link into the store, whatever the store does."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import pytest
from msgspec.structs import replace

from gateway.errors import StoreError, StoreFullError
from gateway.link.framing import FrameReader
from gateway.link.messages import AuditRecord, Content, ExchangeRecord, Records
from gateway.link.outbox import Outbox
from gateway.records import consumer as consumer_module
from gateway.records import preparation
from gateway.records.consumer import Consumer
from gateway.records.store import PRUNE_RECORDS_MAX, MemoryStore, rough_bytes
from gateway.telemetry.counters import Counters
from gateway.telemetry.metrics import Exposition
from policies import schema
from tests.gateway.records.examples import CALL, content, record

KEPT = content(b'{"a": "jane@example.com"}', b"")


class Recorder:
    """A span sink that remembers."""

    def __init__(self) -> None:
        self.taken: list[ExchangeRecord] = []
        self.thread = 0

    def take(self, records: Sequence[ExchangeRecord]) -> None:
        self.thread = threading.get_ident()
        self.taken += records


class Rig:
    def __init__(self, store: MemoryStore | None = None, **policy: object) -> None:
        self.store = store or MemoryStore()
        self.exposition = Exposition()
        self.spans = Recorder()
        self.policy = schema.Records(keep_for=1e12, **policy)  # type: ignore[arg-type]
        self.consumer = Consumer(self.store, self.exposition, [self.spans], lambda: self.policy)
        self.acknowledged: list[str] = []

    def take(self, *records: ExchangeRecord, name: str = "batch") -> None:
        self.consumer.take(records, lambda: self.acknowledged.append(name))

    def value(self, name: str, *labels: str) -> float:
        return self.exposition.value(name, *labels)


def policy(**changes: object) -> schema.Content:
    return schema.Content(**{"store": True, **changes})  # type: ignore[arg-type]


async def test_stores_acknowledges_and_makes_spans() -> None:
    rig = Rig()
    rig.consumer.start()
    rig.take(record(1), record(2))
    assert rig.acknowledged == [], "not before it is durable"
    await rig.consumer.flush()
    assert rig.acknowledged == ["batch"]
    assert (await rig.store.stats()).records == 2
    assert rig.spans.taken == [record(1), record(2)]
    assert rig.spans.thread != threading.get_ident()
    assert rig.value("headgate_records_stored_total") == 2
    assert rig.value("headgate_records_queue_wait") == 0
    await rig.consumer.close()


async def test_a_record_sent_again_is_counted_once() -> None:
    rig = Rig()
    rig.consumer.start()
    rig.take(record(1), name="first")
    rig.take(record(1), record(2), name="again")
    await rig.consumer.flush()
    assert rig.acknowledged == ["first", "again"]
    assert rig.value("headgate_records_stored_total") == 2
    await rig.consumer.close()


async def test_get_sees_what_was_just_taken() -> None:
    rig = Rig()
    rig.consumer.start()
    rig.take(record(7))
    found = await rig.consumer.get("ex-7")
    assert found == record(7)
    assert await rig.consumer.get("ex-8") is None
    await rig.consumer.close()


class FailingStore(MemoryStore):
    failing = True

    async def add(self, batch: Sequence[ExchangeRecord]) -> int:
        if self.failing:
            raise StoreError("a disk that cannot be read")
        return await super().add(batch)


async def test_a_failing_store_costs_counted_records_and_recovers() -> None:
    store = FailingStore()
    rig = Rig(store)
    rig.consumer.start()
    rig.take(record(1), record(2), name="lost")
    await rig.consumer.flush()
    assert rig.acknowledged == ["lost"], "dropped and counted: the worker need not keep it"
    assert rig.value("headgate_records_dropped_total", "store") == 2
    assert rig.value("headgate_records_store_errors_total", "add") == 1
    store.failing = False
    rig.take(record(3), name="kept")
    await rig.consumer.flush()
    assert rig.acknowledged == ["lost", "kept"]
    assert rig.value("headgate_records_stored_total") == 1
    await rig.consumer.close()


class FullStore(MemoryStore):
    """Has no room until it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.full = True
        self.asked = 0

    async def add(self, batch: Sequence[ExchangeRecord]) -> int:
        self.asked += 1
        if self.full:
            raise StoreFullError("no room")
        return await super().add(batch)


async def test_a_store_without_room_is_asked_again_and_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "RETRY_S", 0.001)
    store = FullStore()
    rig = Rig(store)
    rig.consumer.start()
    rig.take(record(1), record(2), name="first")
    await rig.consumer.flush()
    await until(lambda: store.asked >= 3)
    rig.take(record(3), name="second")
    assert await rig.consumer.get("ex-1") is None, "who asks is not kept waiting for room"
    assert rig.acknowledged == [], "not before it is durable"
    assert rig.value("headgate_records_queue_wait") == 3
    assert rig.value("headgate_records_store_errors_total", "add") >= 3
    store.full = False
    await until(lambda: len(rig.acknowledged) == 2)
    assert rig.acknowledged == ["first", "second"]
    assert (await store.stats()).records == 3
    assert rig.spans.taken == [record(1), record(2), record(3)], "of each one span, however often it was tried"
    assert rig.value("headgate_records_dropped_total", "store") == 0
    await rig.consumer.close()


async def test_what_waits_for_room_is_bounded_and_what_is_too_much_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "QUEUE_RECORDS_MAX", 2)
    monkeypatch.setattr(consumer_module, "RETRY_S", 0.001)
    store = FullStore()
    rig = Rig(store)
    rig.consumer.start()
    rig.take(record(1), name="held")
    await until(lambda: store.asked > 0)
    rig.take(record(2), name="held, too")
    rig.take(record(3), name="too many")
    assert rig.acknowledged == ["too many"]
    assert rig.value("headgate_records_dropped_total", "queue_full") == 1
    store.full = False
    await until(lambda: len(rig.acknowledged) == 3)
    assert (await store.stats()).records == 2
    await rig.consumer.close()


async def test_the_end_does_not_wait_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "RETRY_S", 3_600.0)
    store = FullStore()
    rig = Rig(store)
    rig.consumer.start()
    rig.take(record(1), name="held")
    await until(lambda: store.asked > 0)
    rig.take(record(2), name="behind it")
    await rig.consumer.close()
    assert rig.acknowledged == ["held", "behind it"]
    assert rig.value("headgate_records_dropped_total", "store") == 2
    assert rig.value("headgate_records_queue_wait") == 0


async def test_a_full_queue_drops_counts_and_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "QUEUE_RECORDS_MAX", 3)
    rig = Rig()
    rig.take(record(1), record(2), name="first")
    rig.take(record(3), record(4), name="too many")
    rig.take(record(5), name="fits")
    assert rig.acknowledged == ["too many"]
    assert rig.value("headgate_records_dropped_total", "queue_full") == 2
    assert rig.value("headgate_records_queue_wait") == 3
    rig.consumer.start()
    await rig.consumer.flush()
    assert rig.acknowledged == ["too many", "first", "fits"]
    assert rig.value("headgate_records_queue_wait") == 0
    await rig.consumer.close()


@pytest.mark.parametrize("workers", [1, 2, 32])
async def test_what_workers_kept_while_the_controller_was_away_is_taken_in_whole(workers: int) -> None:
    """They send all that their windows hold before anything of it is stored, and each batch is acknowledged as it is stored."""
    store, exposition = MemoryStore(), Exposition()
    consumer = Consumer(store, exposition, (), lambda: schema.Records(keep_for=1e12), workers=workers)
    outboxes = [Outbox(Counters()) for _ in range(workers)]
    kept = 40_000 // workers
    for number, outbox in enumerate(outboxes):
        for each in range(kept):
            outbox.put(record(number * kept + each))
    reader = FrameReader[Records](msgspec.msgpack.Decoder(Records))

    def send(outbox: Outbox) -> None:
        while (frame := outbox.next_frame()) is not None:
            (batch,) = reader.feed(frame)
            consumer.take(batch.records, partial(heard, outbox, batch.sequence))

    def heard(outbox: Outbox, sequence: int) -> None:
        outbox.acknowledge(sequence)
        send(outbox)

    for outbox in outboxes:
        send(outbox)
    consumer.start()
    await until(lambda: not any(map(len, outboxes)))
    assert (await store.stats()).records == kept * workers
    assert exposition.value("headgate_records_dropped_total", "queue_full") == 0
    await consumer.close()


async def test_the_queue_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "QUEUE_BYTES_MAX", rough_bytes(record(1, content=KEPT)) * 2)
    rig = Rig()
    for number in range(3):
        rig.take(record(number, content=KEPT))
    assert rig.value("headgate_records_dropped_total", "queue_full") == 1


async def test_batches_are_stored_together_but_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "TRANSACTION_RECORDS_MAX", 4)
    sizes: list[int] = []

    class Watched(MemoryStore):
        async def add(self, batch: Sequence[ExchangeRecord]) -> int:
            sizes.append(len(batch))
            return await super().add(batch)

    rig = Rig(Watched())
    for start, size in ((0, 3), (10, 1), (20, 6), (30, 1), (40, 1)):
        rig.take(*[record(start + n) for n in range(size)])
    rig.consumer.start()
    await rig.consumer.flush()
    assert sizes == [4, 6, 2]
    await rig.consumer.close()


async def test_what_comes_within_a_moment_is_stored_together_and_nobody_waits_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Watched(MemoryStore):
        async def add(self, batch: Sequence[ExchangeRecord]) -> int:
            sizes.append(len(batch))
            return await super().add(batch)

    monkeypatch.setattr(consumer_module, "TRANSACTION_RECORDS_MAX", 5)
    monkeypatch.setattr(consumer_module, "GATHER_S", 3_600.0)
    rig = Rig(Watched())
    rig.consumer.start()
    for n in range(5):
        assert rig.acknowledged == []
        rig.take(record(n))
        for _ in range(10):
            await asyncio.sleep(0)
    await until(lambda: len(rig.acknowledged) == 5)
    rig.take(record(5))
    await asyncio.sleep(0)
    assert await rig.consumer.get("ex-5") == record(5)
    monkeypatch.setattr(consumer_module, "GATHER_S", 0.001)
    rig.take(record(6))
    await until(lambda: len(rig.acknowledged) == 7)
    assert sizes == [5, 1, 1]
    await rig.consumer.close()


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (schema.Content(), None),
        (policy(sample_percent=0.0), None),
        (policy(), KEPT),
        (policy(redact=("email",)), Content(b'{"a": "[email]"}', b"")),
        (policy(redact=("regex:(a+)+b",)), None),
    ],
)
async def test_content_only_as_the_policy_says(rules: schema.Content, expected: Content | None) -> None:
    rig = Rig(content=rules)
    rig.consumer.start()
    rig.take(record(1, content=KEPT))
    found = await rig.consumer.get("ex-1")
    assert found is not None
    assert found.content == expected
    assert rig.spans.taken[0].content == expected
    await rig.consumer.close()


async def test_content_is_sampled_by_exchange() -> None:
    rig = Rig(content=policy(sample_percent=30.0))
    rig.consumer.start()
    rig.take(*[record(n, content=KEPT) for n in range(1_000)])
    await rig.consumer.flush()
    kept = {r.exchange_id for r in await rig.store.recent(1_000) if r.content is not None}
    assert 250 < len(kept) < 350
    rig.policy = schema.Records(keep_for=1e12, content=policy(sample_percent=60.0))
    rig.take(*[record(n, exchange_id=f"ex-{n}", content=KEPT) for n in range(1_000)])
    await rig.consumer.flush()
    assert kept <= {r.exchange_id for r in rig.spans.taken[1_000:] if r.content is not None}, "what 30 % keeps, 60 % keeps"
    await rig.consumer.close()


async def test_messages_of_errors_are_redacted_and_rules_follow_the_policy() -> None:
    rig = Rig(content=schema.Content(redact=("email",)))
    rig.consumer.start()
    call = replace(CALL, message="bad jane@example.com")
    audits = (AuditRecord("audit_accepted", "big", None, "error", call, (call, CALL)), AuditRecord("audit_deferred", "small", True))
    said = record(1, error="no jane@example.com", calls=(call,), audits=audits)
    rig.take(said)
    found = await rig.consumer.get("ex-1")
    assert found is not None
    assert (found.error, found.calls[0].message) == ("no [email]", "bad [email]")
    assert found.audits == (replace(audits[0], call=found.calls[0], before=(found.calls[0], CALL)), audits[1])
    rig.policy = schema.Records(keep_for=1e12)
    rig.take(record(2, error="no jane@example.com"))
    found = await rig.consumer.get("ex-2")
    assert found is not None
    assert found.error == "no jane@example.com"
    await rig.consumer.close()


async def test_a_unit_in_which_a_rule_finds_something_is_a_hash_and_users_stay_apart() -> None:
    rig = Rig(content=schema.Content(redact=("email",)))
    rig.consumer.start()
    units = ("jane@example.com", "joe@example.com", "jane@example.com", "user-7", "")
    rig.take(*[record(number, unit=unit) for number, unit in enumerate(units)])
    stored = [found.unit for number in range(5) if (found := await rig.consumer.get(f"ex-{number}")) is not None]
    jane = f"sha256:{hashlib.sha256(b'jane@example.com').hexdigest()[:16]}"
    assert stored == [jane, stored[1], jane, "user-7", ""]
    assert stored[1].startswith("sha256:")
    assert stored[1] != jane
    assert [each.unit for each in rig.spans.taken] == stored, "nobody is shown what is not stored"
    rig.policy = schema.Records(keep_for=1e12)
    rig.take(record(5, unit="jane@example.com"))
    found = await rig.consumer.get("ex-5")
    assert found is not None
    assert found.unit == "jane@example.com", "the policy asks for no redaction"
    await rig.consumer.close()


@pytest.mark.parametrize(("failure", "why"), [(preparation.SlowTextError(), "slow"), (RuntimeError("a bug"), "error")])
async def test_what_cannot_be_redacted_is_not_kept(monkeypatch: pytest.MonkeyPatch, failure: Exception, why: str) -> None:
    def fail(*_: object) -> Content:
        raise failure

    monkeypatch.setattr(preparation, "prepared", fail)
    rig = Rig(content=policy(redact=("email",)))
    rig.consumer.start()
    said = replace(CALL, message="jane@example.com")
    audit = AuditRecord("audit_accepted", "big", None, "error", said, (said,))
    rig.take(record(1, content=KEPT, error="for jane@example.com", audits=(audit,)), record(2))
    found = await rig.consumer.get("ex-1")
    assert found is not None
    assert (found.content, found.error, found.unit) == (None, "", preparation.pseudonym(record(1).unit))
    assert found.audits == (replace(audit, call=CALL, before=(CALL,)),)
    assert await rig.store.get("ex-2") == record(2)
    assert rig.value("headgate_records_content_dropped_total", why) == 1
    await rig.consumer.close()


async def test_a_slow_store_does_not_hold_the_event_loop() -> None:
    release = threading.Event()

    class Slow(MemoryStore):
        async def add(self, batch: Sequence[ExchangeRecord]) -> int:
            await asyncio.to_thread(release.wait)
            return await super().add(batch)

    rig = Rig(Slow())
    rig.consumer.start()
    started = time.monotonic()
    for number in range(100):
        rig.take(record(number))
    assert time.monotonic() - started < 1
    release.set()
    await rig.consumer.flush()
    assert rig.value("headgate_records_stored_total") == 100
    await rig.consumer.close()


async def test_a_failing_acknowledgement_stops_nothing() -> None:
    rig = Rig()
    rig.consumer.start()

    def gone() -> None:
        raise ConnectionError("the worker is gone")

    rig.consumer.take([record(1)], gone)
    rig.take(record(2))
    await rig.consumer.flush()
    assert rig.acknowledged == ["batch"]
    await rig.consumer.close()


async def test_a_failing_span_sink_costs_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    rig.consumer.start()

    def fail(records: Sequence[ExchangeRecord]) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(rig.spans, "take", fail)
    rig.take(record(1))
    assert await rig.consumer.get("ex-1") == record(1)
    await rig.consumer.close()


async def test_a_bug_costs_its_batch_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(MemoryStore):
        async def add(self, batch: Sequence[ExchangeRecord]) -> int:
            raise RuntimeError("a bug")

    rig = Rig(Broken())
    rig.consumer.start()
    rig.take(record(1))
    await rig.consumer.flush()
    assert rig.acknowledged == ["batch"]
    assert rig.value("headgate_records_dropped_total", "error") == 1
    await rig.consumer.close()


async def test_close_stores_what_waits_and_then_takes_nothing() -> None:
    rig = Rig()
    rig.consumer.start()
    rig.take(record(1))
    await rig.consumer.close()
    assert (await rig.store.stats()).records == 1
    rig.take(record(2), name="late")
    assert rig.acknowledged == ["batch", "late"]
    assert rig.value("headgate_records_dropped_total", "closed") == 1
    await rig.consumer.flush()


async def test_one_that_was_never_started_can_be_closed() -> None:
    rig = Rig()
    rig.take(record(1))
    await rig.consumer.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_prunes_by_age_and_size_in_steps_and_periodically() -> None:
    store = MemoryStore()
    exposition = Exposition()
    now = record(0).started_at + 1_000
    rules = schema.Records(keep_for=1_000.0, keep_max=rough_bytes(record(0)) * 50)
    consumer = Consumer(store, exposition, (), lambda: rules, prune_every_s=0.001, clock=lambda: now)
    await store.add([record(n - PRUNE_RECORDS_MAX * 2) for n in range(PRUNE_RECORDS_MAX * 2 + 80)])
    consumer.start()
    await until(lambda: exposition.value("headgate_records_deleted_total", "size") > 0)
    assert exposition.value("headgate_records_deleted_total", "age") == PRUNE_RECORDS_MAX * 2
    assert exposition.value("headgate_records_deleted_total", "size") == 30
    assert exposition.value("headgate_records_store_bytes") == rough_bytes(record(0)) * 50
    now += 40.5
    await until(lambda: exposition.value("headgate_records_deleted_total", "age") == PRUNE_RECORDS_MAX * 2 + 11)
    await consumer.close()


async def test_a_store_that_cannot_be_pruned_is_an_error_that_is_counted() -> None:
    class Stuck(MemoryStore):
        async def prune(self, **_: float) -> None:  # type: ignore[override]
            raise StoreError("read-only")

    rig = Rig(Stuck())
    await rig.consumer.prune()
    assert rig.value("headgate_records_store_errors_total", "prune") == 1
