"""What grows old by a clock that is stepped."""

from __future__ import annotations

import pytest

from gateway.records.age import AHEAD_S, AgeClock, since_boot
from gateway.records.consumer import Consumer
from gateway.records.store import MemoryStore
from gateway.telemetry.counters import Counter
from gateway.telemetry.metrics import Exposition
from policies import schema
from tests.gateway.records.examples import record

DAY = 86_400.0


class Clocks:
    """A machine's two: `off` is what the wall clock is wrong by."""

    def __init__(self, at: float) -> None:
        self.boot = at - 5_000.0
        self.passed = 5_000.0
        self.off = 0.0

    def wall(self) -> float:
        return self.boot + self.passed + self.off

    def age(self, jumps: Counter) -> AgeClock:
        return AgeClock(jumps, wall=self.wall, passed=lambda: self.passed)


def test_follows_the_wall_clock_as_far_as_time_has_passed(caplog: pytest.LogCaptureFixture) -> None:
    clocks, jumps = Clocks(1_000_000.0), Counter()
    clock = clocks.age(jumps)
    clocks.passed += 10
    assert clock.now() == 1_000_010
    clocks.off = AHEAD_S  # a small step is not worth a word
    assert (clock.now(), jumps.value) == (1_000_010, 0)
    clocks.off = 400 * DAY
    clocks.passed += 10
    assert (clock.now(), clock.now(), jumps.value) == (1_000_020, 1_000_020, 1)
    assert "jumped ahead" in caplog.text
    clocks.off = -DAY
    assert clock.now() == 1_000_020 - DAY
    clocks.off = 0.0
    assert (clock.now(), jumps.value) == (1_000_020, 1)
    clocks.off = 3_600.0
    assert (clock.now(), jumps.value) == (1_000_020, 2)


async def test_a_clock_that_jumps_ahead_deletes_nothing() -> None:
    store, exposition = MemoryStore(), Exposition()
    clocks = Clocks(record(0).started_at + 1)
    rules = schema.Records(keep_for=30 * DAY)
    clock = clocks.age(exposition.counter("headgate_records_clock_jumps_total"))
    consumer = Consumer(store, exposition, (), lambda: rules, clock=clock.now)
    await store.add([record(0)])
    clocks.off = 400 * DAY
    await consumer.prune()
    assert (await store.stats()).records == 1
    assert exposition.value("headgate_records_clock_jumps_total") == 1
    clocks.off = 0.0
    clocks.passed += 30 * DAY
    await consumer.prune()
    assert (await store.stats()).records == 0


async def test_unless_told_otherwise_records_age_by_such_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    store, exposition = MemoryStore(), Exposition()
    clocks = Clocks(record(0).started_at + 1)
    monkeypatch.setattr("gateway.records.age.AgeClock.__init__.__kwdefaults__", {"wall": clocks.wall, "passed": lambda: clocks.passed})
    consumer = Consumer(store, exposition, (), lambda: schema.Records(keep_for=DAY))
    await store.add([record(0)])
    clocks.off = 400 * DAY
    await consumer.prune()
    assert (await store.stats()).records == 1


def test_time_passes() -> None:
    assert 0 < since_boot() <= since_boot()
