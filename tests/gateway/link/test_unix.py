"""The link over real sockets: who may open it, what is in the way, peers that break the protocol or stop reading."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from gateway.errors import LinkError
from gateway.link import server as server_module
from gateway.link.framing import encode_frame
from gateway.link.messages import Ack, OutboxLimits, Overlay, Prepare, Swap
from gateway.link.server import LinkServer
from gateway.link.unix import WRITE_BUFFER_BYTES, WorkerLink
from gateway.telemetry.counters import Counters
from tests.gateway.link.examples import Controller, eventually, hello, record


def link_server(path: Path, controller: Controller) -> LinkServer:
    return LinkServer(str(path), on_hello=controller.on_hello, on_message=controller.on_message, on_gone=controller.on_gone)


async def test_only_the_owner_may_open_the_socket_and_it_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "link.sock"
    server = link_server(path, Controller())
    await server.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["link.sock"]
    await server.close()
    assert os.listdir(tmp_path) == []


async def test_a_dead_controllers_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "link.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = link_server(path, Controller())
    await server.start()
    await server.close()


async def test_a_live_controllers_socket_is_not(tmp_path: Path) -> None:
    path = tmp_path / "link.sock"
    first, second = link_server(path, Controller()), link_server(path, Controller())
    await first.start()
    with pytest.raises(LinkError, match="another gateway"):
        await second.start()
    await first.close()


@pytest.mark.parametrize("length", [20, 200])
async def test_what_is_no_place_for_a_socket_is_said(tmp_path: Path, length: int) -> None:
    path = tmp_path / ("x" * length)
    if length == 20:
        path.write_text("a file of the user's")
    with pytest.raises(LinkError):
        await link_server(path, Controller()).start()
    if length == 20:
        assert path.read_text() == "a file of the user's"


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff",
        b"\0\0\0\x01\xc1",
        encode_frame(Swap("v")),  # a message of the other direction
        encode_frame({"type": "records", "sequence": 1, "records": []}),  # before hello
        encode_frame({"type": "hello", "worker": 1, "pid": 1, "incarnation": "x", "policy_version": "", "link_version": 99}),
    ],
)
async def test_a_peer_that_breaks_the_protocol_is_closed_and_the_others_are_not(tmp_path: Path, said: bytes) -> None:
    path = tmp_path / "link.sock"
    controller = Controller()
    server = link_server(path, controller)
    await server.start()
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(said)
    try:
        assert await asyncio.wait_for(reader.read(), 5) == b""
    except ConnectionResetError:
        pass
    writer.close()
    _, good = await asyncio.open_unix_connection(str(path))
    good.write(encode_frame(hello()))
    await controller.until(lambda: len(controller.workers) == 1)
    good.close()
    await server.close()


async def test_a_connection_without_hello_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HELLO_TIMEOUT_S", 0.01)
    server = link_server(tmp_path / "link.sock", Controller())
    await server.start()
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "link.sock"))
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await asyncio.wait_for(reader.readexactly(1), 5)
    writer.close()
    await server.close()


async def test_a_worker_that_reads_nothing_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_module, "SEND_BUFFER_BYTES_MAX", 1_000_000)
    controller = Controller()
    server = link_server(tmp_path / "link.sock", controller)
    await server.start()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(str(tmp_path / "link.sock"))
        deaf.send(encode_frame(hello()))
        await controller.until(lambda: len(controller.workers) == 1)
        for _ in range(40):
            server.broadcast(Prepare("v", bytes(100_000), ""))
        await controller.until(lambda: not controller.workers)
    assert "<worker 0 pid 1> reads nothing: cut off" in caplog.messages
    await server.close()


async def test_a_controller_that_is_stopped_costs_no_more_than_the_limits(tmp_path: Path) -> None:
    """SIGSTOP: the socket is open and accepts until the kernel's buffers are full, and nobody reads."""
    path = str(tmp_path / "link.sock")
    counters = Counters()
    limits = OutboxLimits(bytes_max=2 * 1024 * 1024)
    with socket.socket(socket.AF_UNIX) as stopped:
        stopped.bind(path)
        stopped.listen()
        link = WorkerLink(path, hello=hello, on_message=lambda _: None, totals=counters.totals, counters=counters, limits=limits)
        link.start()
        await eventually(lambda: link.connected)
        for n in range(1_000):
            link.emit(record(str(n), content=bytes(10_000)))
            if n % 50 == 0:
                await asyncio.sleep(0.001)
        connection = link._connection
        assert connection is not None
        assert connection.paused
        assert connection.transport.get_write_buffer_limits()[1] == WRITE_BUFFER_BYTES
        assert connection.transport.get_write_buffer_size() <= 2 * 256 * 1024 + 10_500
        assert link._outbox.bytes_held <= limits.bytes_max
        kept = link.records_waiting
        assert counters.counter("headgate_records_dropped_total", "spill_full").value == 1_000 - kept
        assert 150 < kept < 250
        await link.close()


async def test_a_controller_that_talks_nonsense_is_left_and_tried_again(tmp_path: Path) -> None:
    path = str(tmp_path / "link.sock")
    counters = Counters()
    connections = 0
    twice = asyncio.Event()

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections == 2:
            twice.set()
        writer.write(b"\xff" * 100)
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(nonsense, path)
    link = WorkerLink(path, hello=hello, on_message=lambda _: None, totals=counters.totals, counters=counters)
    link.start()
    await asyncio.wait_for(twice.wait(), 5)
    await link.close()
    server.close()


async def test_totals_follow_within_seconds_and_only_when_they_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.link.unix.TOTALS_INTERVAL_S", 0.01)
    controller = Controller()
    server = link_server(tmp_path / "link.sock", controller)
    await server.start()
    counters = Counters()
    asked = asyncio.Event()
    times = 0

    def totals() -> list:  # type: ignore[type-arg]
        nonlocal times
        times += 1
        if times > 5:
            asked.set()
        return counters.totals()

    link = WorkerLink(str(tmp_path / "link.sock"), hello=hello, on_message=lambda _: None, totals=totals, counters=counters)
    link.start()
    await controller.until(lambda: len(controller.totals) == 1)
    await asyncio.wait_for(asked.wait(), 5)
    assert len(controller.totals) == 1
    counters.counter("headgate_connections_open").value = 3
    await controller.until(lambda: len(controller.totals) == 2)
    assert [(each.metric, each.value) for each in controller.totals[1].samples] == [("headgate_connections_open", 3)]
    server.broadcast(Overlay(1))
    await link.close()
    await server.close()


async def test_counts_travel_with_the_records_that_they_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.link.unix.TOTALS_INTERVAL_S", 1000.0)
    monkeypatch.setattr("gateway.link.unix.TOTALS_SHARE_MAX", 1.0)
    controller = Controller()
    server = link_server(tmp_path / "link.sock", controller)
    await server.start()
    counters = Counters()
    link = WorkerLink(str(tmp_path / "link.sock"), hello=hello, on_message=lambda _: None, totals=counters.totals, counters=counters)
    link.start()
    await controller.until(lambda: len(controller.totals) == 1)
    for number in range(3):
        counters.counter("headgate_requests_total", "chat", "primary", "200").inc()
        link.emit(record(str(number)))
        await controller.until(lambda number=number: len(controller.totals) == 2 + number)  # type: ignore[misc]
        counted = {sample.metric: sample.value for sample in controller.totals[-1].samples}
        assert (counted["headgate_requests_total"], counted["headgate_records_emitted_total"]) == (number + 1, number + 1)
    await link.close()
    await server.close()


async def test_a_worker_that_counts_very_much_sends_it_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.link.unix.TOTALS_INTERVAL_S", 1000.0)
    monkeypatch.setattr("gateway.link.unix.TOTALS_SHARE_MAX", 1e-9)  # whatever the first one took, the next may wait for days
    controller = Controller()
    server = link_server(tmp_path / "link.sock", controller)
    await server.start()
    counters = Counters()
    link = WorkerLink(str(tmp_path / "link.sock"), hello=hello, on_message=lambda _: None, totals=counters.totals, counters=counters)
    link.start()
    await controller.until(lambda: len(controller.totals) == 1)
    link.emit(record("e"))
    await controller.until(lambda: controller.records == ["e"])
    assert await link.flush(5), "but the last word always goes"
    assert len(controller.totals) == 2
    await link.close()
    await server.close()


async def test_the_depth_of_the_queue_is_what_the_controller_has_not_taken(tmp_path: Path) -> None:
    controller = Controller()
    controller.acknowledges = False
    server = link_server(tmp_path / "link.sock", controller)
    await server.start()
    counters = Counters()
    link = WorkerLink(str(tmp_path / "link.sock"), hello=hello, on_message=lambda _: None, totals=counters.totals, counters=counters)
    link.start()

    def depth() -> float | None:
        told = [
            sample.value for totals in controller.totals for sample in totals.samples if sample.metric == "headgate_records_queue_depth"
        ]
        return told[-1] if told else None

    await controller.until(lambda: depth() == 0)
    for number in range(3):
        link.emit(record(str(number)))
    await controller.until(lambda: depth() == 3)
    controller.workers[0].send(Ack(1))
    await controller.until(lambda: depth() == 0)
    await link.close()
    await server.close()
