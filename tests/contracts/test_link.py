"""What both kinds of link promise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.link.memory import memory_connector
from gateway.link.messages import Discard, Down, OutboxLimits, Overlay, Prepare, Prepared, Swap, Swapped
from gateway.link.server import LinkServer
from gateway.link.unix import WorkerLink
from gateway.telemetry.counters import Counters
from tests.gateway.link.examples import Controller, eventually, hello, record


class Rig:
    """A controller that can die and come back, and workers that connect to it."""

    def __init__(self, kind: str, path: str) -> None:
        self.kind = kind
        self.path = path
        self.controller = Controller()
        self.server: LinkServer | None = None
        self.links: list[WorkerLink] = []

    async def start(self) -> None:
        controller = self.controller
        server = LinkServer(self.path, on_hello=controller.on_hello, on_message=controller.on_message, on_gone=controller.on_gone)
        if self.kind == "unix":
            await server.start()
        self.server = server

    async def stop(self) -> None:
        assert self.server is not None
        await self.server.close()
        self.server = None

    def worker(
        self, incarnation: str = "a", *, on_message: Callable[[Down], None] = lambda _: None, limits: OutboxLimits | None = None
    ) -> tuple[WorkerLink, Counters]:
        counters = Counters()
        link = WorkerLink(
            self.path,
            hello=lambda: hello(len(self.links), incarnation),
            on_message=on_message,
            totals=counters.totals,
            counters=counters,
            limits=limits,
            connect=memory_connector(lambda: self.server) if self.kind == "memory" else None,
        )
        self.links.append(link)
        return link, counters


@pytest.fixture(params=["memory", "unix"])
async def rig(request: Any, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(request.param, str(tmp_path / "link.sock"))
    await rig.start()
    yield rig
    for link in rig.links:
        await link.close()
    if rig.server is not None:
        await rig.stop()


async def test_hello_comes_first_then_records_in_order(rig: Rig) -> None:
    link, _ = rig.worker()
    for n in range(3):
        link.emit(record(str(n)))  # before it is connected
    link.start()
    await rig.controller.until(lambda: len(rig.controller.records) == 3)
    for n in range(3, 2000):
        link.emit(record(str(n)))
    assert await link.flush(5)
    assert rig.controller.events[0] == ("hello", hello(1))
    assert rig.controller.records == [str(n) for n in range(2000)]
    assert link.records_waiting == 0


async def test_a_record_arrives_as_it_was(rig: Rig) -> None:
    link, _ = rig.worker()
    link.start()
    sent = record("x", content=b"{}")
    link.emit(sent)
    assert await link.flush(5)
    batches = [value.records for what, value in rig.controller.events if what == "message" and hasattr(value, "records")]
    assert batches[0] == [sent]


async def test_flush_delivers_the_last_totals_before_it_returns(rig: Rig) -> None:
    link, counters = rig.worker()
    link.start()
    assert await link.flush(5)
    counters.counter("headgate_requests_total", "chat", "primary", "200").value = 7
    assert await link.flush(5)
    last = {(sample.metric, sample.labels): sample.value for sample in rig.controller.totals[-1].samples}
    assert last["headgate_requests_total", ("chat", "primary", "200")] == 7


async def test_orders_reach_every_worker_and_one_worker_alone(rig: Rig) -> None:
    heard: list[list[Down]] = [[], []]
    links = [rig.worker(name, on_message=heard[n].append)[0] for n, name in enumerate("ab")]
    for link in links:
        link.start()
    await rig.controller.until(lambda: len(rig.controller.workers) == 2)
    assert rig.server is not None
    orders: list[Down] = [Overlay(workers=2), Prepare("v2", b"{}", "/files"), Swap("v2"), Discard("v1")]
    for order in orders:
        rig.server.broadcast(order)
    only = next(worker for worker in rig.server.workers if worker.hello.incarnation == "b")
    only.send(Overlay(workers=1))
    await eventually(lambda: len(heard[1]) == 5 and len(heard[0]) == 4)
    assert heard == [orders, [*orders, Overlay(workers=1)]]


async def test_answers_of_a_worker_arrive(rig: Rig) -> None:
    link, _ = rig.worker()
    assert not link.send(Swapped("v0"))  # there is no connection
    link.start()
    await rig.controller.until(lambda: len(rig.controller.workers) == 1)
    assert link.send(Prepared("v1", "no such file"))
    assert link.send(Swapped("v1"))
    await rig.controller.until(lambda: ("message", Swapped("v1")) in rig.controller.events)
    assert ("message", Prepared("v1", "no such file")) in rig.controller.events


async def test_a_worker_that_fails_on_an_order_stays_connected(rig: Rig) -> None:
    def fail(message: Down) -> None:
        raise RuntimeError("no")

    link, _ = rig.worker(on_message=fail)
    link.start()
    await rig.controller.until(lambda: len(rig.controller.workers) == 1)
    rig.controller.workers[0].send(Swap("v1"))
    link.emit(record("after"))
    assert await link.flush(5)
    assert rig.controller.records == ["after"]


async def test_what_was_not_acknowledged_is_sent_again_and_nothing_else(rig: Rig) -> None:
    link, counters = rig.worker()
    link.start()
    link.emit(record("acknowledged"))
    assert await link.flush(5)
    rig.controller.acknowledges = False
    link.emit(record("lost"))
    await rig.controller.until(lambda: "lost" in rig.controller.records)
    await rig.stop()
    link.emit(record("spilled"))
    rig.controller.records.clear()
    rig.controller.acknowledges = True
    await rig.start()
    assert await link.flush(5)
    assert rig.controller.records == ["lost", "spilled"]
    assert counters.counter("headgate_records_emitted_total").value == 3


async def test_totals_are_sent_whole_to_a_controller_that_is_new(rig: Rig) -> None:
    link, counters = rig.worker()
    link.start()
    counters.counter("headgate_requests_total", "chat", "primary", "200").value = 7
    assert await link.flush(5)
    await rig.stop()
    rig.controller = Controller()
    await rig.start()
    await rig.controller.until(lambda: bool(rig.controller.totals))
    assert any(sample.value == 7 for sample in rig.controller.totals[0].samples)


async def test_a_controller_that_is_away_costs_a_bounded_spill_and_the_rest_is_counted(rig: Rig) -> None:
    await rig.stop()
    link, counters = rig.worker(limits=OutboxLimits(records_max=10))
    link.start()
    for n in range(25):
        link.emit(record(str(n)))
    assert link.records_waiting == 10
    assert counters.counter("headgate_records_dropped_total", "spill_full").value == 15
    assert not await link.flush(0.05)
    await rig.start()
    assert await link.flush(5)
    assert rig.controller.records == [str(n) for n in range(10)]


async def test_a_batch_that_is_never_acknowledged_closes_the_window_not_the_worker(rig: Rig) -> None:
    rig.controller.acknowledges = False
    limits = OutboxLimits(records_max=100, batch_records_max=5, window_batches_max=2)
    link, counters = rig.worker(limits=limits)
    link.start()
    for n in range(150):
        link.emit(record(str(n)))
    await rig.controller.until(lambda: len(rig.controller.records) == 10)
    assert link.records_waiting == 100
    assert counters.counter("headgate_records_dropped_total", "spill_full").value == 50


async def test_a_worker_that_goes_is_said_to_be_gone_once(rig: Rig) -> None:
    link, _ = rig.worker()
    link.start()
    await rig.controller.until(lambda: len(rig.controller.workers) == 1)
    await link.close()
    await rig.controller.until(lambda: not rig.controller.workers)
    assert [what for what, _ in rig.controller.events].count("gone") == 1


async def test_the_same_incarnation_twice_replaces_its_dead_connection(rig: Rig) -> None:
    for _ in range(2):
        rig.worker("same")[0].start()
    await rig.controller.until(lambda: [what for what, _ in rig.controller.events if what != "message"][:3] == ["hello", "gone", "hello"])
