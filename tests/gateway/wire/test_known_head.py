"""A message that is recognised must be read as the parser would have read it, whatever is sent."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.wire.base import ServerLimits
from gateway.wire.known_head import learn
from gateway.wire.request import Request
from gateway.wire.request_reader import LastHead, RequestReader
from tests.gateway.wire.rig import Listener, PoolRig

NAMES = st.sampled_from([b"Accept", b"x-a", b"X-B", b"User-Agent", b"authorization", b"connection", b"upgrade"])
VALUES = st.sampled_from([b"v", b"a b", b" 5", b"content-length: 3", b"upgrade", b"h2c"])
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=4, unique_by=lambda field: field[0].lower())
ATTRIBUTES = ("method", "path", "query", "headers", "peer", "started", "body", "http10", "keep_alive")
BODIES = st.binary(min_size=0, max_size=40)


def head(fields: list[tuple[bytes, bytes]], body: bytes, name: bytes = b"Content-Length", at: int = 0) -> bytes:
    lines = [b"%b: %b\r\n" % field for field in fields]
    lines.insert(min(at, len(lines)), b"%b: %d\r\n" % (name, len(body)))
    return b"POST /v1/x?q=1 HTTP/1.1\r\nHost: h\r\n" + b"".join(lines) + b"\r\n" + body


def read(reader: RequestReader, data: bytes) -> Any:
    """What comes of one read: the requests, or the fault; and whether the reader is within a request."""
    reader.feed(data, 7.0)
    found = [plain(request) for request in reader.ready]
    reader.ready.clear()
    fault = reader.fault
    return found, None if fault is None else (fault.status, fault.message), reader.begun, reader.in_body


def plain(request: Request) -> tuple[Any, ...]:
    return tuple(getattr(request, name) for name in ATTRIBUTES)


def untaught(first: bytes) -> RequestReader:
    """Has read the same, and remembers nothing."""
    reader = RequestReader(ServerLimits(body_bytes_max=30), "p")
    reader.feed(first, 1.0)
    reader.ready.clear()
    reader._known = None
    return reader


def taught(first: bytes, limits: ServerLimits | None = None, last: LastHead | None = None) -> RequestReader:
    reader = RequestReader(limits or ServerLimits(body_bytes_max=30), "p", last)
    reader.feed(first, 1.0)
    reader.ready.clear()
    return reader


def stranger() -> RequestReader:
    return RequestReader(ServerLimits(body_bytes_max=30), "p")


def next_door(first: bytes) -> RequestReader:
    """Has read nothing; another connection of the server has."""
    last, limits = LastHead(), ServerLimits(body_bytes_max=30)
    taught(first, limits, last)
    return RequestReader(limits, "p", last)


@given(FIELDS, BODIES, BODIES, st.integers(0, 4), st.sampled_from([b"Content-Length", b"content-length", b"CONTENT-LENGTH"]))
def test_a_request_with_the_same_head_reads_the_same(
    fields: list[tuple[bytes, bytes]], one: bytes, other: bytes, at: int, name: bytes
) -> None:
    first, second = head(fields, one, name, at), head(fields, other, name, at)
    assert read(taught(first), second) == read(untaught(first), second)
    assert read(next_door(first), second) == read(stranger(), second)


@given(FIELDS, BODIES, st.data())
@example([], b"0123", None)
def test_one_other_byte_reads_as_the_parser_reads_it(fields: list[tuple[bytes, bytes]], body: bytes, data: Any) -> None:
    first = head(fields, body)
    if data is None:
        second = first.replace(b": 4\r\n", b":+4\r\n")
    else:
        at = data.draw(st.integers(0, len(first) - 1))
        second = first[:at] + bytes([data.draw(st.integers(0, 255))]) + first[at + 1 :]
    assert read(taught(first), second) == read(untaught(first), second)
    assert read(next_door(first), second) == read(stranger(), second)


@given(FIELDS, BODIES, st.integers(0, 200), st.integers(0, 40))
def test_more_or_less_than_one_message_goes_to_the_parser(fields: list[tuple[bytes, bytes]], body: bytes, cut: int, more: int) -> None:
    first = head(fields, body)
    for second in (first[: min(cut, len(first) - 1)] or b"P", first + first[:more], first + b"\r\n"):
        assert read(taught(first), second) == read(untaught(first), second)


def test_a_known_head_is_recognised() -> None:
    first = head([(b"x-a", b"v")], b"0123456789")
    reader = taught(first)
    assert reader._known is not None
    assert reader._known.head.body(head([(b"x-a", b"v")], b"012")) == b"012"
    assert reader._known.head.headers(b"012")[b"content-length"] == b"3"


def test_requests_with_one_head_carry_it() -> None:
    reader = RequestReader(ServerLimits(), "p")
    for body in (b"0123", b"01", b"012345"):
        reader.feed(head([], body), 1.0)
    reader.feed(head([(b"x-a", b"v")], b"01"), 1.0)
    first, second, third, other = (request.head for request in reader.ready)
    assert first is second is third is not None
    assert other is not first
    reader.ready.clear()
    reader.feed(head([], b"01") * 2, 1.0)
    assert [request.head for request in reader.ready] == [None, None]


def test_connections_share_the_head_that_came_last_and_keep_no_parser() -> None:
    last, limits = LastHead(), ServerLimits()
    one, two = taught(head([], b"0123"), limits, last), RequestReader(limits, "q", last)
    two.feed(head([], b"01"), 2.0)
    assert two._known is one._known is last.known
    assert (one._parser, two._parser) == (None, None)
    assert [(request.peer, request.body) for request in two.ready] == [("q", b"01")]
    two.feed(head([(b"x-a", b"v")], b"01")[:30], 3.0)
    assert two._parser is not None, "it is in the middle of a request"
    assert two.begun
    two.feed(head([(b"x-a", b"v")], b"01")[30:], 4.0)
    assert [request.headers.get(b"x-a") for request in two.ready] == [None, b"v"]
    assert one._known is last.known, "what comes in pieces is not learned"
    taught(head([(b"x-b", b"v")], b"01"), limits, last)
    assert one._known is not last.known


def test_a_head_that_was_read_under_other_limits_is_not_taken_over() -> None:
    last = LastHead()
    first = head([(b"x-a", b"v" * 500)], b"0123")
    taught(first, ServerLimits(), last)
    stranger = RequestReader(ServerLimits(head_bytes_max=100), "q", last)
    stranger.feed(first, 2.0)
    assert stranger.fault is not None
    assert stranger.fault.status == 431


def test_what_is_not_learned() -> None:
    for line in (b"expect: 100-continue", b"connection: close", b"content-length: 2"):
        reader = taught(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n%b\r\n\r\nab" % line)
        assert reader._known is None, line
    assert taught(b"POST / HTTP/1.0\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nab")._known is None
    assert taught(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n")._known is None
    assert taught(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")._known is None
    assert learn(b"POST / HTTP/1.1\r\nx: 1\r\ncontent-length: 3\r\n\r\nab", {b"content-length": b"3"}) is None


def test_other_limits_forget_it() -> None:
    first = head([], b"0123")
    reader = taught(first)
    reader.bound_by(ServerLimits(body_bytes_max=2))
    reader.feed(first, 2.0)
    assert reader.fault is not None
    assert reader.fault.status == 413


@given(FIELDS, BODIES, st.data())
def test_a_response_reads_the_same(fields: list[tuple[bytes, bytes]], body: bytes, data: Any) -> None:
    def response(content: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\n" + head(fields, content).partition(b"\r\n")[2]

    first = response(b"01234")
    second = response(body)
    at = data.draw(st.integers(0, len(second)))
    if at < len(second):
        second = second[:at] + bytes([data.draw(st.integers(0, 255))]) + second[at + 1 :]
    seen = []
    for forgets in (False, True):
        rig = PoolRig()
        connection, _ = rig.connection()
        for number, raw in enumerate((first, second)):
            listener = Listener()
            rig.pool.request([b"POST / HTTP/1.1\r\n\r\n"], listener, connect_timeout_s=1.0)
            if number and forgets:
                rig.pool.known = None
            connection.data_received(raw)
        seen.append((listener.status, listener.headers, listener.body, listener.seen, str(listener.failure), rig.pool.idle))
    assert seen[0] == seen[1]
