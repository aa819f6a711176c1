"""Bytes in, requests out."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.base import ServerLimits
from gateway.wire.request_reader import RequestReader

LIMITS = ServerLimits(head_bytes_max=1000, headers_max=10, uri_bytes_max=100, body_bytes_max=5000, pipelined_requests_max=8)
POST = b"POST /v1 HTTP/1.1\r\nHost: a\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n"


def read(*reads: bytes, limits: ServerLimits = LIMITS) -> RequestReader:
    reader = RequestReader(limits, "10.0.0.1")
    for data in reads:
        if reader.fault is None:
            reader.feed(data, 1.0)
    return reader


def seen(reader: RequestReader) -> list[tuple[object, ...]]:
    return [(r.method, r.path, r.query, r.headers, r.body, r.keep_alive, r.http10) for r in reader.ready]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % len(data) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if end > start]


def test_one_request() -> None:
    reader = read(POST + b"X-A:  1 \r\nx-a: 2\r\nempty:\r\ncontent-length: 3\r\n\r\nabc")
    (request,) = reader.ready
    assert (request.method, request.path, request.query, request.body) == (b"POST", b"/v1", b"", b"abc")
    assert request.headers == {b"host": b"a", b"x-a": b"1, 2", b"empty": b"", b"content-length": b"3"}
    assert (request.peer, request.started, request.keep_alive, request.http10) == ("10.0.0.1", 1.0, True, False)
    assert not reader.begun
    assert reader.fault is None


@pytest.mark.parametrize(
    ("target", "path", "query", "host"),
    [
        (b"/", b"/", b"", b"a"),
        (b"/a%20b?x=1?y", b"/a%20b", b"x=1?y", b"a"),
        (b"//a", b"//a", b"", b"a"),
        (b"http://other:81/p?q", b"/p", b"q", b"other:81"),
        (b"HTTPS://other", b"/", b"", b"other"),
        (b"http://other?q", b"/", b"q", b"other"),
    ],
)
def test_targets(target: bytes, path: bytes, query: bytes, host: bytes) -> None:
    reader = read(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)
    assert reader.fault is None
    (request,) = reader.ready
    assert (request.path, request.query, request.headers[b"host"]) == (path, query, host)


def test_asterisk_is_for_options_alone_and_is_not_remembered_for_others() -> None:
    reader = read(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n" + b"GET * HTTP/1.1\r\nHost: a\r\n\r\n")
    assert [r.path for r in reader.ready] == [b"*"]
    assert reader.fault is not None
    assert reader.fault.status == 400


@pytest.mark.parametrize("host", [b"a", b"a.b-c:80", b"[::1]:8080", b"127.0.0.1", b"a:", b"x_y.example"])
def test_good_hosts(host: bytes) -> None:
    assert read(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host).fault is None


REFUSED = {
    "content-length and transfer-encoding": (POST + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "transfer-encoding and content-length": (POST + b"transfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\na", 400),
    "the same length twice": (POST + b"content-length: 1\r\ncontent-length: 1\r\n\r\na", 400),
    "a list of lengths": (POST + b"content-length: 1, 1\r\n\r\na", 400),
    "signed length": (POST + b"content-length: +1\r\n\r\na", 400),
    "negative length": (POST + b"content-length: -1\r\n\r\na", 400),
    "hexadecimal length": (POST + b"content-length: 0x1\r\n\r\na", 400),
    "empty length": (POST + b"content-length:\r\n\r\n", 400),
    "length overflow": (POST + b"content-length: 99999999999999999999999\r\n\r\n", 400),
    "unknown coding": (POST + b"transfer-encoding: gzip\r\n\r\n", 501),
    "coding before chunked": (POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "chunked not last": (POST + b"transfer-encoding: chunked, gzip\r\n\r\n", 400),
    "chunked twice": (POST + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "nearly chunked": (POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "coding in 1.0": (b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunk size not hexadecimal": (POST + b"transfer-encoding: chunked\r\n\r\nxy\r\n", 400),
    "chunk size with prefix": (POST + b"transfer-encoding: chunked\r\n\r\n0x1\r\na\r\n", 400),
    "chunk size with space": (POST + b"transfer-encoding: chunked\r\n\r\n1 \r\na\r\n", 400),
    "chunk size overflow": (POST + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400),
    "chunk longer than said": (POST + b"transfer-encoding: chunked\r\n\r\n1\r\nab\r\n", 400),
    "bare line feed in chunks": (POST + b"transfer-encoding: chunked\r\n\r\n1\na\n0\n\n", 400),
    "folded header": (GET + b"x: a\r\n b\r\n\r\n", 400),
    "first header folded": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "space before colon": (GET + b"x : a\r\n\r\n", 400),
    "no colon": (GET + b"x\r\n\r\n", 400),
    "no name": (GET + b": x\r\n\r\n", 400),
    "bare line feed": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare carriage return in value": (GET + b"x: a\rb\r\n\r\n", 400),
    "NUL in value": (GET + b"x: a\0b\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (GET + b"host: a\r\n\r\n", 400),
    "empty host": (b"GET / HTTP/1.1\r\nHost: \r\n\r\n", 400),
    "garbage host": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "host with path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "host with user": (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    "host with list": (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    "two authorizations": (GET + b"authorization: a\r\nauthorization: b\r\n\r\n", 400),
    "two content types": (POST + b"content-type: a\r\ncontent-type: b\r\ncontent-length: 0\r\n\r\n", 400),
    "unknown expectation": (POST + b"expect: tea\r\ncontent-length: 1\r\n\r\n", 417),
    "connect": (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\nxyz", 405),
    "http/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "http/2 version": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "http/0.9": (b"GET /\r\n\r\n", 505),
    "http/1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400),
    "lower-case version": (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
    "unknown method": (b"FETCH / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00", 400),
    "fragment": (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "another scheme": (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "user in target": (b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no host in target": (b"GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "raw bytes in target": (b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "long target": (b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * 100), 414),
    "many headers": (GET + b"".join(b"x%d: 1\r\n" % n for n in range(10)) + b"\r\n", 431),
    "one header many times": (GET + b"x: 1\r\n" * 11 + b"\r\n", 431),
    "large head": (GET + b"x: " + b"a" * 1000 + b"\r\n\r\n", 431),
    "large body by length": (POST + b"content-length: 5001\r\n\r\n", 413),
    "large body in chunks": (
        POST + b"transfer-encoding: chunked\r\n\r\n" + b"3e8\r\n" + b"a" * 1000 + b"\r\n" + b"fff\r\n" + b"b" * 4095,
        413,
    ),
    "endless trailer": (POST + b"transfer-encoding: chunked\r\n\r\n0\r\nx: " + b"a" * 1100, 431),
    "endless chunk extension": (POST + b"transfer-encoding: chunked\r\n\r\n1;" + b"a" * 1100, 431),
    "endless leading line ends": (b"\r\n" * 600, 431),
    "endless header name": (GET + b"a" * 1100, 431),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_refused(name: str, size: int) -> None:
    data, status = REFUSED[name]
    goes_on = b"a" * 1100 if name.startswith("endless") else b""
    reader = read(*(data[at : at + size] for at in range(0, len(data), size)), goes_on)
    assert reader.fault is not None, seen(reader)
    assert reader.fault.status == status
    assert reader.ready == []


def test_a_head_of_just_the_limit_is_read_whole_or_in_pieces() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\n"
    data = head + b"x: " + b"a" * (1000 - len(head) - 7) + b"\r\n\r\n"
    assert len(data) == 1000
    assert len(read(data).ready) == 1
    assert len(read(data[:500], data[500:]).ready) == 1


def test_trailers_never_become_headers() -> None:
    body = b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nauthorization: evil\r\nhost: evil\r\nx: y\r\n\r\n"
    reader = read(POST + body + GET + b"\r\n")
    assert [r.headers for r in reader.ready] == [{b"host": b"a", b"transfer-encoding": b"chunked"}, {b"host": b"a"}]
    assert reader.ready[0].body == b"a"


def test_http10_needs_no_host_and_closes_unless_asked_not_to() -> None:
    assert seen(read(b"GET / HTTP/1.0\r\n\r\n")) == [(b"GET", b"/", b"", {}, b"", False, True)]
    assert read(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").ready[0].keep_alive


def test_an_upgrade_is_ignored_and_the_body_still_read() -> None:
    offer = POST + b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAM\r\ncontent-length: 3\r\n\r\nabc"
    for size in (3, 1000):
        reader = read(*((offer + GET + b"\r\n")[at : at + size] for at in range(0, 1000, size)))
        assert reader.fault is None
        first, second = reader.ready
        assert (first.body, first.keep_alive, b"upgrade" in first.headers) == (b"abc", True, False)
        assert (second.method, second.path) == (b"GET", b"/")


def test_an_upgrade_does_not_restart_the_clock() -> None:
    reader = read(GET)
    reader.feed(b"connection: upgrade\r\nupgrade: h2c\r\n\r\n", 2.0)
    assert reader.ready[0].started == 1.0


def test_an_upgrade_that_also_closes() -> None:
    reader = read(GET + b"connection: close, upgrade\r\nupgrade: websocket\r\n\r\n")
    assert not reader.ready[0].keep_alive


def test_expectation_is_noted_until_the_body_comes() -> None:
    reader = read(POST + b"expect: 100-Continue\r\ncontent-length: 3\r\n\r\n")
    assert reader.continue_wanted
    reader.feed(b"a", 1.0)
    assert not reader.continue_wanted
    assert not read(GET + b"expect: 100-continue\r\n\r\n").continue_wanted
    assert not read(POST + b"expect: 100-continue\r\ncontent-length: 3\r\n\r\nabc").continue_wanted


def test_a_known_request_line_says_nothing_of_another() -> None:
    known, keep = b"LOCK /a HTTP/1.1\r\nhost: a\r\n\r\n", b"connection: keep-alive\r\n\r\n"
    old, other = b"LOCK /a HTTP/1.0\r\n" + keep, b"LOCK /b HTTP/1.1\r\nhost: a\r\n\r\n"
    lines = [(b"LOCK", b"/a", False), (b"LOCK", b"/a", False), (b"LOCK", b"/a", True), (b"LOCK", b"/a", False), (b"LOCK", b"/b", False)]
    for reads in ((known, known, old, known, other), (known, known + old, known + other)):
        assert [(r.method, r.path, r.http10) for r in read(*reads).ready] == lines
    assert [r.method for r in read(known, known + b"UN", known).ready] == [b"LOCK", b"LOCK", b"UNLOCK"]


def test_too_many_pipelined() -> None:
    reader = read((GET + b"\r\n") * 9)
    assert len(reader.ready) == 8
    assert reader.fault is not None


def test_requests_before_a_fault_are_kept() -> None:
    reader = read(GET + b"\r\nGARBAGE")
    assert len(reader.ready) == 1
    assert reader.fault is not None


def test_many_small_chunks_are_kept_as_bytes_not_as_objects() -> None:
    reader = RequestReader(LIMITS, "")
    reader.feed(POST + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 4000, 1.0)
    assert isinstance(reader._body, bytearray)
    reader.feed(b"0\r\n\r\n", 1.0)
    assert reader.ready[0].body == b"a" * 4000


names = st.sampled_from([b"X-One", b"x-two", b"Accept", b"User-Agent", b"traceparent"])
values = st.binary(max_size=20).map(lambda raw: bytes(33 + byte % 94 for byte in raw))
bodies = st.binary(max_size=300)
paths = st.sampled_from([b"/", b"/v1/chat/completions", b"/v1/models/a%20b?x=1&y", b"http://h:1/p?q"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One well-formed request."""
    head = b"%b %b HTTP/1.1\r\nHost: h\r\n" % (draw(st.sampled_from([b"GET", b"POST", b"HEAD", b"PUT"])), draw(paths))
    for name in draw(st.lists(names, max_size=4)):
        head += b"%b: %b\r\n" % (name, draw(values))
    kind = draw(st.sampled_from(["none", "length", "chunked"]))
    body = draw(bodies)
    if kind == "none":
        return head + b"\r\n"
    if kind == "length":
        return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    chunks, at = b"", 0
    while at < len(body):
        size = draw(st.integers(1, 100))
        piece = body[at : at + size]
        chunks += b"%x%b\r\n%b\r\n" % (len(piece), draw(st.sampled_from([b"", b";a=b"])), piece)
        at += size
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + draw(st.sampled_from([b"", b"t: v\r\n"])) + b"\r\n"


@settings(deadline=None)
@given(st.lists(requests(), min_size=1, max_size=5), st.lists(st.integers(0, 10_000), max_size=40))
def test_law_how_the_bytes_are_cut_makes_no_difference(messages: list[bytes], places: list[int]) -> None:
    data = b"".join(messages)
    whole, pieces = read(data), read(*cut(data, places))
    assert whole.fault is None
    assert len(whole.ready) == len(messages)
    assert seen(pieces) == seen(whole)


@settings(deadline=None)
@given(st.binary(max_size=400), st.lists(st.integers(0, 10_000), max_size=10))
def test_law_no_bytes_make_it_raise(data: bytes, places: list[int]) -> None:
    if data:
        read(*cut(data, places))
        read(*cut(GET + data, places))


@settings(deadline=None)
@given(requests())
def test_law_h11_reads_the_same(message: bytes) -> None:
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(message)
    head, body = None, b""
    while (event := peer.next_event()) is not h11.NEED_DATA and not isinstance(event, h11.EndOfMessage):
        if isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
    (request,) = read(message).ready
    assert head is not None
    assert (request.method, request.body) == (head.method, body)
    joined: dict[bytes, bytes] = {}
    for name, value in head.headers:
        joined[bytes(name)] = joined[bytes(name)] + b", " + bytes(value) if name in joined else bytes(value)
    if head.target.startswith(b"http://"):
        joined[b"host"] = b"h:1"
    else:
        assert request.path + (b"?" + request.query if request.query else b"") == head.target
    assert request.headers == joined
