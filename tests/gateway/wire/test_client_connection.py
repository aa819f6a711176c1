"""Transcripts of a backend and one pooled connection."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.base import ClientLimits, WireFailure
from gateway.wire.client_connection import ClientConnection
from gateway.wire.fake import FakeTransport
from gateway.wire.pool import PoolTicket
from tests.gateway.wire.rig import Listener, PoolRig

REQUEST = (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\n", b"x")
LENGTH = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a:2 \r\ncontent-length: 3\r\n\r\nabc"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"


class Asked:
    """One request in the hands of a fake connection."""

    def __init__(self, parts: tuple[bytes, ...] = REQUEST, limits: ClientLimits | None = None, listener: Any = None) -> None:
        self.rig = PoolRig(limits)
        self.connection: ClientConnection
        self.transport: FakeTransport
        self.connection, self.transport = self.rig.connection()
        self.listener = listener or Listener()
        self.ticket: PoolTicket = self.rig.pool.request(parts, self.listener, connect_timeout_s=1)

    def hears(self, *reads: bytes) -> Asked:
        for data in reads:
            if not self.transport.closing:
                self.connection.data_received(data)
        return self

    def closes(self, exc: Exception | None = None) -> Asked:
        self.transport.closing = True
        self.connection.connection_lost(exc)
        return self

    @property
    def reusable(self) -> bool:
        assert self.transport.closing == (self.rig.pool.idle == 0)
        return not self.transport.closing


def test_head_and_small_body_leave_in_one_write() -> None:
    asked = Asked()
    assert asked.transport.writes == [b"".join(REQUEST)]
    assert asked.ticket.sent
    assert not asked.ticket.heard


def test_a_large_body_is_not_joined() -> None:
    class Transport(FakeTransport):
        def writelines(self, list_of_data: Any) -> None:
            self.writes.extend(list_of_data)

    rig = PoolRig()
    connection, transport = ClientConnection(rig.pool), Transport()
    connection.connection_made(transport)
    rig.pool.put_back(connection)
    body = b"x" * 100_000
    rig.pool.request((b"head", body, b"tail"), Listener(), connect_timeout_s=1)
    assert transport.writes[1] == body
    assert len(transport.writes) == 3


def test_a_response_with_length() -> None:
    asked = Asked().hears(LENGTH)
    listener = asked.listener
    assert listener.seen == ["head", "body", "end"]
    assert (listener.status, listener.body) == (200, b"abc")
    assert listener.headers == {b"x-a": b"1, 2", b"content-length": b"3"}
    assert asked.reusable
    assert asked.ticket.heard


def test_chunks_of_one_read_come_joined() -> None:
    asked = Asked().hears(CHUNKED[:-5])
    assert asked.listener.pieces == [b"abcde"]
    asked.hears(CHUNKED[-5:])
    assert asked.listener.seen == ["head", "body", "end"]
    assert asked.reusable


def test_every_read_is_heard() -> None:
    asked = Asked().hears(LENGTH[:3])
    assert asked.ticket.heard
    asked.ticket.heard = False
    asked.hears(LENGTH[3:-1])
    assert asked.ticket.heard


def test_the_connection_may_be_used_again_from_within_the_end() -> None:
    second = Listener()

    class Chain(Listener):
        def response_end(self) -> None:
            asked.rig.pool.request(REQUEST, second, connect_timeout_s=1)

    asked = Asked(listener=Chain())
    asked.hears(LENGTH)
    assert asked.transport.writes == [b"".join(REQUEST)] * 2
    asked.hears(CHUNKED)
    assert second.body == b"abcde"


def test_the_receiver_may_be_replaced_at_any_time() -> None:
    first, second, third = Listener(), Listener(), Listener()
    asked = Asked(listener=first)
    asked.hears(CHUNKED[:-20])
    assert first.seen == ["head"]
    asked.ticket.receiver = second
    asked.hears(CHUNKED[-20:-5])
    asked.ticket.receiver = third
    asked.hears(CHUNKED[-5:])
    assert (second.seen, third.seen) == (["body"], ["end"])


def test_a_receiver_may_be_replaced_from_within_a_call() -> None:
    second = Listener()

    class Swap(Listener):
        def response_head(self, status: int, headers: dict[bytes, bytes]) -> None:
            asked.ticket.receiver = second

    asked = Asked(listener=Swap())
    asked.hears(CHUNKED)
    assert second.seen == ["body", "end"]


@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH, 200, b"abc"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + CHUNKED, 200, b"abcde"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", 304, b""),
        (b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", 200, b""),
        (b"HTTP/1.1 799 Odd\r\ncontent-length: 0\r\n\r\n", 799, b""),
        (b"HTTP/1.1 200 OK\r\nupgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 1\r\n\r\na", 200, b"a"),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\na", 200, b"a"),
        (CHUNKED[:-2] + b"x: trailer\r\nx: again\r\n\r\n", 200, b"abcde"),
        (CHUNKED.replace(b"2\r\n", b"2;ext=1\r\n"), 200, b"abcde"),
        (CHUNKED.replace(b"chunked\r\n", b"chunked  \r\nx-tab: y\t \r\n"), 200, b"abcde"),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_responses_after_which_the_connection_is_kept(data: bytes, status: int, body: bytes, size: int) -> None:
    asked = Asked().hears(*(data[at : at + size] for at in range(0, len(data), size)))
    assert (asked.listener.status, asked.listener.body, asked.listener.seen[-1]) == (status, body, "end")
    assert b"x" not in asked.listener.headers
    assert b"link" not in asked.listener.headers
    assert asked.reusable


@pytest.mark.parametrize(
    "data",
    [
        LENGTH.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"),
        b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nabc",
        LENGTH + b"x",
        LENGTH + LENGTH,
        LENGTH + b"H",
        CHUNKED.replace(b"abc", b"xyz").replace(b"3\r\nxyz\r\n2\r\nde", b"3\r\nabc") + b"HTTP/1.1",
    ],
)
def test_whole_responses_after_which_the_connection_is_closed(data: bytes) -> None:
    asked = Asked().hears(data)
    assert asked.listener.seen == ["head", "body", "end"]
    assert asked.listener.body == b"abc"
    assert not asked.reusable
    assert asked.rig.pool.open == 0


def test_head_requests() -> None:
    asked = Asked((b"HEAD / HTTP/1.1\r\nhost: h\r\n\r\n",)).hears(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n")
    assert asked.listener.seen == ["head", "end"]
    assert asked.reusable
    again = Listener()
    asked.rig.pool.request(REQUEST, again, connect_timeout_s=1)
    asked.hears(LENGTH)
    assert again.body == b"abc"


@pytest.mark.parametrize(
    "data", [LENGTH, CHUNKED, CHUNKED[: CHUNKED.find(b"\r\n\r\n") + 5], CHUNKED[: CHUNKED.find(b"\r\n\r\n") + 4] + CHUNKED[-5:]]
)
def test_a_body_after_head(data: bytes) -> None:
    asked = Asked((b"HEAD / HTTP/1.1\r\nhost: h\r\n\r\n",)).hears(data)
    assert asked.listener.seen == ["head", "end"]
    assert not asked.reusable


def test_a_body_that_ends_with_the_connection() -> None:
    asked = Asked().hears(b"HTTP/1.1 200 OK\r\n\r\nabc", b"de")
    assert asked.listener.seen == ["head", "body", "body"]
    asked.closes()
    assert asked.listener.seen[-1] == "end"
    assert asked.listener.body == b"abcde"


def test_a_reset_does_not_end_such_a_body() -> None:
    asked = Asked().hears(b"HTTP/1.1 200 OK\r\n\r\nabc").closes(ConnectionResetError())
    assert asked.listener.failure is not None
    assert asked.listener.failure.kind == "truncated"


def test_a_kept_connection_that_was_closed_takes_the_other_idle_ones_with_it() -> None:
    rig = PoolRig()
    used, _ = rig.connection()
    first, second, busy = Listener(), Listener(), Listener()
    rig.pool.request(REQUEST, first, connect_timeout_s=1.0)
    used.data_received(LENGTH)
    working, _ = rig.connection()
    rig.pool.request(REQUEST, busy, connect_timeout_s=1.0)
    _, other = rig.connection()
    rig.pool._idle.reverse()  # the used one goes first
    rig.pool.request(REQUEST, second, connect_timeout_s=1.0)
    used.connection_lost(None)
    assert second.failure is not None
    assert second.failure.reused
    assert (other.aborted, rig.pool.idle) == (True, 0), "a retry must not meet a connection that is as old"
    assert working._ticket is not None, "what is under way goes on"


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 2", LENGTH[:-1], CHUNKED[:-1], CHUNKED[:-20], b"HTTP/1.1 100 Continue\r\n\r\n"])
@pytest.mark.parametrize("reused", [False, True])
def test_a_connection_that_closes_too_early(data: bytes, reused: bool) -> None:
    asked = Asked()
    listener = asked.listener
    if reused:
        asked.hears(LENGTH)
        listener = Listener()
        asked.rig.pool.request(REQUEST, listener, connect_timeout_s=1)
    if data:
        asked.hears(data)
    asked.closes()
    assert listener.failure is not None
    assert listener.failure.kind == ("truncated" if data else "closed")
    assert (listener.failure.sent, listener.failure.received, listener.failure.reused) == (True, data != b"", reused)
    assert listener.seen.count("failed") == 1
    assert asked.rig.pool.open == 0


@pytest.mark.parametrize(
    "data",
    [
        b"garbage",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 99 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\ncontent-length: 1\n\na",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nabc",
        b"HTTP/1.1 103 Early Hints\r\ntransfer-encoding: gzip, chunked\r\n\r\n" + LENGTH,
        b"HTTP/1.1 100 Continue\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + LENGTH,
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\t\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx : y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: y\r\n z\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"x%d: 1\r\n" % n for n in range(6)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: 1\r\n" * 7 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 1000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 1000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
    ],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_what_is_not_http(data: bytes, size: int) -> None:
    limits = ClientLimits(head_bytes_max=900, headers_max=5)
    asked = Asked(limits=limits).hears(*(data[at : at + size] for at in range(0, len(data), size)))
    failure = asked.listener.failure
    assert failure is not None
    assert (failure.kind, failure.sent, failure.received, failure.reused) == ("protocol", True, True, False)
    assert asked.listener.seen == ["failed"]
    assert asked.transport.aborted
    assert failure.message.startswith("backend:80: ")


def test_a_broken_chunk_after_good_ones() -> None:
    asked = Asked().hears(CHUNKED[:-5] + b"zz\r\n")
    assert asked.listener.seen == ["head", "body", "failed"]
    assert asked.listener.body == b"abcde"
    assert asked.listener.failure is not None
    assert asked.listener.failure.kind == "protocol"


@pytest.mark.parametrize("last", [b"0\r\nx: ", b"1;"])
def test_a_trailer_or_extension_that_never_ends(last: bytes) -> None:
    asked = Asked(limits=ClientLimits(head_bytes_max=100)).hears(CHUNKED[:-5] + last, *[b"a" * 60] * 2)
    assert asked.listener.failure is not None
    assert asked.listener.failure.kind == "protocol"


def test_a_long_stream_in_small_reads_is_no_such_thing() -> None:
    asked = Asked(limits=ClientLimits(head_bytes_max=100)).hears(CHUNKED[:-5], *[b"1\r\n", b"a", b"\r\n"] * 100, b"0\r\n\r\n")
    assert asked.listener.seen[-1] == "end"


def test_cancel_closes_and_silences() -> None:
    asked = Asked().hears(CHUNKED[:-10])
    seen = list(asked.listener.seen)
    asked.ticket.cancel()
    asked.ticket.cancel()
    assert asked.transport.aborted
    assert asked.rig.pool.open == 0
    asked.connection.data_received(b"2\r\nde\r\n")
    asked.closes()
    assert asked.listener.seen == seen


@pytest.mark.parametrize("at", ["head", "body", "end"])
def test_cancel_from_within_a_call(at: str) -> None:
    class Cancels(Listener):
        def response_head(self, status: int, headers: dict[bytes, bytes]) -> None:
            super().response_head(status, headers)
            if at == "head":
                asked.ticket.cancel()

        def response_body(self, data: bytes) -> None:
            super().response_body(data)
            if at == "body":
                asked.ticket.cancel()

        def response_end(self) -> None:
            super().response_end()
            asked.ticket.cancel()

    asked = Asked(listener=Cancels())
    asked.hears(CHUNKED)
    assert asked.listener.seen == ["head", "body", "end"][: ["head", "body", "end"].index(at) + 1]
    assert asked.reusable == (at == "end")


def test_cancel_after_the_end_touches_nobody_elses_request() -> None:
    asked = Asked().hears(LENGTH)
    second = Listener()
    asked.rig.pool.request(REQUEST, second, connect_timeout_s=1)
    asked.ticket.cancel()
    asked.ticket.pause_reading()
    assert asked.transport.reading
    asked.hears(LENGTH)
    assert second.seen == ["head", "body", "end"]


def test_pausing() -> None:
    asked = Asked().hears(CHUNKED[:-10])
    asked.ticket.resume_reading()
    asked.ticket.pause_reading()
    asked.ticket.pause_reading()
    assert not asked.transport.reading
    asked.ticket.resume_reading()
    assert asked.transport.reading


def test_a_connection_paused_at_its_end_reads_again() -> None:
    class Pauses(Listener):
        def response_body(self, data: bytes) -> None:
            asked.ticket.pause_reading()

    asked = Asked(listener=Pauses())
    asked.hears(CHUNKED)
    assert asked.transport.reading
    assert asked.reusable


def test_an_idle_connection_that_speaks_is_dropped() -> None:
    asked = Asked().hears(LENGTH)
    asked.connection.data_received(LENGTH)
    assert asked.transport.aborted
    assert asked.rig.pool.open == asked.rig.pool.idle == 0


def test_an_idle_connection_that_closes_is_dropped() -> None:
    asked = Asked().hears(LENGTH)
    asked.connection.eof_received()
    asked.closes()
    assert asked.rig.pool.open == asked.rig.pool.idle == 0


def test_a_receiver_that_fails_ends_its_own_exchange_only() -> None:
    class Bad(Listener):
        def response_body(self, data: bytes) -> None:
            raise ValueError("a bug")

    asked = Asked(listener=Bad())
    with pytest.raises(ValueError, match="a bug"):
        asked.hears(CHUNKED[:-5])
    # The event loop logs it and closes the connection.
    asked.closes(ValueError())
    assert asked.listener.failure is not None
    assert asked.listener.failure.kind == "truncated"


def test_shutting_down_fails_what_is_under_way() -> None:
    asked = Asked()
    asked.connection.cut()
    assert asked.listener.failure is not None
    assert asked.listener.failure.kind == "closed"
    asked = Asked().hears(LENGTH[:-1])
    asked.connection.cut()
    assert asked.listener.failure is not None
    assert asked.listener.failure.kind == "truncated"


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, bytes, bool]:
    """A good response, its body, and whether it ends with the connection."""
    head = b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n" * draw(st.integers(0, 2)) + b"HTTP/1.1 %d Some Text\r\n" % draw(
        st.integers(200, 203)
    )
    for name in draw(st.lists(st.sampled_from([b"A", b"b", b"Server"]), max_size=4)):
        head += name + b": some, value\r\n"
    body = draw(st.binary(min_size=1, max_size=300))
    kind = draw(st.sampled_from(["length", "chunked", "close"]))
    if kind == "length":
        return head + b"content-length: %d\r\n\r\n" % len(body) + body, body, False
    if kind == "close":
        return head + b"\r\n" + body, body, True
    data, at = head + b"transfer-encoding: chunked\r\n\r\n", 0
    while at < len(body):
        piece = body[at : at + draw(st.integers(1, 90))]
        data += b"%x\r\n%b\r\n" % (len(piece), piece)
        at += len(piece)
    return data + b"0\r\n\r\n", body, False


@settings(deadline=None)
@given(st.lists(responses(), min_size=1, max_size=4), st.lists(st.integers(0, 10_000), max_size=40))
def test_law_how_the_bytes_are_cut_makes_no_difference(messages: list[tuple[bytes, bytes, bool]], places: list[int]) -> None:
    asked = Asked()
    for number, (data, body, until_close) in enumerate(messages):
        listener = asked.listener
        if number:
            listener = Listener()
            asked.rig.pool.request(REQUEST, listener, connect_timeout_s=1)
        ends = sorted({place % len(data) for place in places} | {len(data)})
        asked.hears(*(data[start:end] for start, end in zip([0, *ends], ends, strict=False) if end > start))
        if until_close:
            asked.closes()
        assert listener.body == body
        assert listener.seen == ["head", *["body"] * len(listener.pieces), "end"]
        assert b"x" not in listener.headers
        if until_close:
            break
        assert asked.reusable


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", LENGTH[:20], CHUNKED[:-10], b"HTTP/1.1 200 OK\r\n"]))
def test_law_every_request_hears_exactly_one_ending(data: bytes, before: bytes) -> None:
    asked = Asked()
    if before + data:
        asked.hears(before + data)
    asked.closes()
    seen = asked.listener.seen
    assert seen.count("end") + seen.count("failed") == 1
    assert seen[-1] in ("end", "failed")
    assert isinstance(asked.listener.failure, WireFailure) == (seen[-1] == "failed")
