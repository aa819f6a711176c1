"""Chunks that are taken without the parser must be those that it would have found."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.wire.chunked import whole_chunks
from tests.gateway.wire.rig import Listener, PoolRig

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
PIECES = st.lists(st.binary(min_size=1, max_size=40) | st.sampled_from([b"\r\n", b"0\r\n\r\n", b"a" * 5000]), min_size=1, max_size=5)
SIZES = st.sampled_from([b"%x", b"%X", b"0%x", b"00000%x", b"%x;a=b", b"%x "])
CHANGES = st.lists(st.tuples(st.integers(0, 60), st.sampled_from(list(b"\r\n 0129afgAFG;+x_\0\xff"))), max_size=2)


class Heard:
    """What the parser says of one response."""

    def __init__(self) -> None:
        self.body: list[bytes] = []
        self.between = self.over = False

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_chunk_header(self) -> None:
        self.between = False

    def on_chunk_complete(self) -> None:
        self.between = True

    def on_message_complete(self) -> None:
        self.over = True


def framed(pieces: list[bytes], size: bytes = b"%x") -> bytes:
    return b"".join(b"%b\r\n%b\r\n" % (size % len(piece), piece) for piece in pieces)


@given(PIECES)
def test_whole_chunks_are_taken(pieces: list[bytes]) -> None:
    assert whole_chunks(framed(pieces)) == b"".join(pieces)


@given(PIECES, SIZES, CHANGES)
@example([b"a"], b"%x", [(0, ord("0"))])
@example([b"abc"], b"+%x", [])
@example([b"abc"], b"0x%x", [])
@example([b"abc"], b"_%x", [])
def test_what_is_taken_is_what_the_parser_finds(pieces: list[bytes], size: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(framed(pieces, size))
    for place, byte in changes:
        data[place % len(data)] = byte
    taken = whole_chunks(bytes(data))
    if taken is None:
        return
    heard = Heard()
    parser = httptools.HttpResponseParser(heard)
    parser.feed_data(HEAD + data)
    assert b"".join(heard.body) == taken
    assert heard.between
    assert not heard.over


@pytest.mark.parametrize(
    "data",
    [
        b"5\r\nhello",
        b"5\r\nhello\r",
        b"5\r\nhello\r\n3\r\nab",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"0\r\n\r\n",
        b"5;x\r\nhello\r\n",
        b"5\nhello\n",
        b"1000001\r\n",
        b"f" * 100_000,
        b"\r\n",
        b"5",
    ],
)
def test_all_else_is_left_to_the_parser(data: bytes) -> None:
    assert whole_chunks(data) is None


@given(PIECES, st.lists(st.integers(0, 10_000), max_size=6))
@example([b"a", b"\r\n"], [1, 3])
def test_however_a_response_is_cut_its_body_is_the_same(pieces: list[bytes], cuts: list[int]) -> None:
    """Reads of whole chunks pass the parser by, those with a part of one go through it, in any order."""
    rig, listener = PoolRig(), Listener()
    connection, _ = rig.connection()
    rig.pool.request((b"GET / HTTP/1.1\r\n\r\n",), listener, connect_timeout_s=1)
    data = HEAD + framed(pieces) + b"0\r\n\r\n"
    ends = (
        {len(HEAD + framed(pieces[:number])) for number in range(len(pieces) + 1)} | {cut % len(data) for cut in cuts} - {0} | {len(data)}
    )
    start = 0
    for end in sorted(ends):
        connection.data_received(data[start:end])
        start = end
    assert listener.body == b"".join(pieces)
    assert listener.seen[-1] == "end"


def test_whole_chunks_are_not_shown_to_the_parser() -> None:
    rig, listener = PoolRig(), Listener()
    connection, _ = rig.connection()
    rig.pool.request((b"GET / HTTP/1.1\r\n\r\n",), listener, connect_timeout_s=1)
    connection.data_received(HEAD + framed([b"first"]))
    fed: list[bytes] = []
    parse = connection._feed
    connection._feed = lambda data: (fed.append(data), parse(data))
    connection.data_received(framed([b"second", b"third"]))
    assert listener.body == b"firstsecondthird"
    assert not fed
    connection.data_received(b"0\r\n\r\n")
    assert listener.seen[-1] == "end"
    assert len(fed) == 1
