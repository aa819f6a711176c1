"""What every framed connection does, over a transport that is a list; and how long its end waits before it connects again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from gateway.errors import LinkError
from gateway.link import framed
from gateway.link.framed import BACKOFF_FIRST_S, BACKOFF_MAX_S, FramedConnection, stay_connected
from gateway.link.framing import encode_frame
from gateway.link.messages import Ack, Discard, Down, Swap


class Written(asyncio.Transport):
    """Keeps what is written; its peer reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = 0

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert not self.aborted
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def is_closing(self) -> bool:
        return self.aborted > 0

    def abort(self) -> None:
        self.aborted += 1


class Owner:
    """Notes what it is told, and raises where it is asked to."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.raises: dict[object, Exception] = {}

    def hear(self, what: object) -> None:
        self.told.append(what)
        if what in self.raises:
            raise self.raises[what]

    def connection(self, limit: int | None = None) -> FramedConnection[Down]:
        return FramedConnection[Down](
            Down,
            "the controller",
            limit,
            opened=lambda _: self.hear("opened"),
            received=lambda _, message: self.hear(message),
            closed=lambda _: self.hear("closed"),
        )

    def connected(self, limit: int | None = None) -> tuple[FramedConnection[Down], Written]:
        connection, transport = self.connection(limit), Written()
        connection.connection_made(transport)
        return connection, transport


async def test_frames_in_whatever_pieces_are_told_in_order() -> None:
    owner = Owner()
    connection, transport = owner.connected()
    said = encode_frame(Swap("a")) + encode_frame(Ack(1)) + encode_frame(Swap("b"))
    for place in range(0, len(said), 5):
        connection.data_received(said[place : place + 5])
    assert not connection.lost.is_set()
    connection.connection_lost(None)
    assert connection.lost.is_set()
    assert owner.told == ["opened", Swap("a"), Ack(1), Swap("b"), "closed"]
    assert transport.aborted == 0


async def test_what_is_no_frame_closes_it_and_the_log_says_whose_it_was(caplog: pytest.LogCaptureFixture) -> None:
    owner = Owner()
    connection, transport = owner.connected()
    connection.data_received(b"\xff" * 8)
    assert (transport.aborted, owner.told, connection.again_soon) == (1, ["opened"], False)
    (line,) = caplog.messages
    assert line.startswith("connection with the controller closed: a frame of 4294967295 bytes")


async def test_one_that_its_owner_does_not_want_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    owner = Owner()
    owner.raises["opened"] = LinkError("more than 3 connections")
    _, transport = owner.connected()
    assert transport.aborted == 1
    assert caplog.messages == ["connection with the controller closed: more than 3 connections"]


async def test_after_a_message_that_breaks_the_protocol_no_more_are_told() -> None:
    owner = Owner()
    owner.raises[Swap("a")] = LinkError("not now")
    connection, transport = owner.connected()
    connection.data_received(encode_frame(Swap("a")) + encode_frame(Swap("b")))
    assert (transport.aborted, owner.told) == (1, ["opened", Swap("a")])


async def test_any_other_error_costs_one_message(caplog: pytest.LogCaptureFixture) -> None:
    owner = Owner()
    owner.raises[Swap("a")] = RuntimeError("no")
    connection, transport = owner.connected()
    connection.data_received(encode_frame(Swap("a")) + encode_frame(Swap("b")))
    assert (transport.aborted, owner.told) == (0, ["opened", Swap("a"), Swap("b")])
    assert caplog.messages == ["a Swap of the controller could not be taken"]


async def test_a_peer_that_reads_nothing_is_cut_off_and_sent_no_more(caplog: pytest.LogCaptureFixture) -> None:
    frame = encode_frame(Discard("v"))
    connection, transport = Owner().connected(2 * len(frame))
    for _ in range(2):
        connection.send(Discard("v"))
    assert transport.aborted == 0
    for _ in range(2):
        connection.send(Discard("v"))
    assert (transport.aborted, transport.written) == (1, 3 * frame)
    assert caplog.messages == ["the controller reads nothing: cut off"]


async def test_without_a_limit_its_owner_has_one_of_its_own() -> None:
    connection, transport = Owner().connected()
    for _ in range(100):
        connection.send(Discard("v"))
    assert (transport.aborted, transport.written) == (0, 100 * encode_frame(Discard("v")))


class Tries:
    """A peer that does at each try what the list says; the waits between them take no time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *peers: Callable[[FramedConnection[Down]], None]) -> None:
        self.waits: list[float] = []
        self._peers = list(peers)
        turn = asyncio.sleep

        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)
            await turn(0)

        monkeypatch.setattr(framed.asyncio, "sleep", sleep)
        monkeypatch.setattr(framed.random, "uniform", lambda low, high: (low + high) / 2)

    async def connect(self, factory: Callable[[], asyncio.Protocol]) -> None:
        if not self._peers:
            raise asyncio.CancelledError
        connection = factory()
        assert isinstance(connection, FramedConnection)
        self._peers.pop(0)(connection)

    async def run(self) -> list[float]:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(stay_connected(self.connect, Owner().connection), 10)
        return self.waits


def away(connection: FramedConnection[Down]) -> None:
    raise ConnectionRefusedError("nobody listens")


def accepts_and_closes(connection: FramedConnection[Down]) -> None:
    connection.connection_made(Written())
    connection.connection_lost(None)


def speaks_and_closes(connection: FramedConnection[Down]) -> None:
    connection.connection_made(Written())
    connection.data_received(encode_frame(Swap("v")))
    connection.connection_lost(None)


async def test_a_peer_that_is_away_is_tried_less_and_less_often_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, framed.__name__)
    waits = await Tries(monkeypatch, *[away] * 6).run()
    first = BACKOFF_FIRST_S
    assert waits == [2 * first, 4 * first, 8 * first, BACKOFF_MAX_S, BACKOFF_MAX_S, BACKOFF_MAX_S]
    assert caplog.messages == ["no connection with the controller: nobody listens"] * 6


async def test_only_one_that_has_said_something_is_soon_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = await Tries(monkeypatch, accepts_and_closes, away, speaks_and_closes, accepts_and_closes).run()
    first = BACKOFF_FIRST_S
    assert waits == [2 * first, 4 * first, first, 2 * first]
