from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocol.sse import EventSplitter, event_data

LF, CRLF, CR = b"\n", b"\r\n", b"\r"


@pytest.mark.parametrize("end", [LF, CRLF, CR])
def test_an_event_ends_with_a_blank_line(end: bytes) -> None:
    first = b"event: x" + end + b"data: 1" + end + end
    second = b"data: 2" + end + end
    splitter = EventSplitter()
    assert splitter.split(first + second + b"data: 3" + end) == [first, second]
    assert splitter.tail == b"data: 3" + end


@pytest.mark.parametrize(
    "event",
    [b"data: 1\r\n\n", b"data: 1\n\r\n", b"data: 1\r\r", b"data: 1\r\r\n", b"data: 1\n\r", b": comment\n\n", b"\xef\xbb\xbfdata: 1\n\n"],
)
def test_line_ends_may_be_mixed(event: bytes) -> None:
    assert EventSplitter().split(event) == [event]


def test_a_crlf_alone_ends_no_event() -> None:
    splitter = EventSplitter()
    assert splitter.split(b"event: x\r\ndata: 1\r\n") == []
    assert splitter.split(b"\r\n") == [b"event: x\r\ndata: 1\r\n\r\n"]


def test_all_of_a_read_is_not_copied() -> None:
    event = b"data: 1\n\n"
    assert EventSplitter().split(event)[0] is event


def test_a_large_event_in_small_pieces_takes_linear_time() -> None:
    splitter = EventSplitter()
    piece = b"x" * 1000
    started = time.perf_counter()
    for _ in range(8_000):
        splitter.split(piece)
    assert time.perf_counter() - started < 2
    assert len(splitter.split(b"\n\n")[0]) == 8_000_002


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: 1\n\n", b"1"),
        (b"data:1\n\n", b"1"),
        (b"data:  1\r\n\r\n", b" 1"),
        (b"data: 1\r\r", b"1"),
        (b"data: 1\ndata: 2\n\n", b"1\n2"),
        (b"data: 1\rdata: 2\n\n", b"1\n2"),
        (b"data\n\n", b""),
        (b"data: \n\n", b""),
        (b"id: 4\nevent: x\ndata: 1\nretry: 5\n\n", b"1"),
        (b": comment\n\n", None),
        (b"event: x\n\n", None),
        (b"database: 1\n\n", None),
        (b"data: \xc2\x85\x0b\x0c\x1c\n\n", b"\xc2\x85\x0b\x0c\x1c"),  # no line ends, whatever Unicode says
    ],
)
def test_the_data_of_an_event(event: bytes, data: bytes | None) -> None:
    assert event_data(event) == data


streams = st.lists(st.sampled_from([b"data: a", b": c", b"x", LF, LF, CRLF, CR, CR, "é😀".encode()]), max_size=30).map(b"".join)


@settings(max_examples=500, deadline=None)
@given(streams, st.lists(st.integers(0, 100), max_size=20))
def test_however_it_is_cut_nothing_is_lost_and_the_same_data_comes_out(stream: bytes, cuts: list[int]) -> None:
    def read(pieces: list[bytes]) -> tuple[list[bytes], bytes]:
        splitter = EventSplitter()
        events = [event for piece in pieces for event in splitter.split(piece)]
        assert b"".join(events) + splitter.tail == stream
        return [data for event in events if (data := event_data(event)) is not None], bytes(splitter.tail)

    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    whole, tail = read([stream])
    cut, cut_tail = read([stream[a:b] for a, b in pairwise(edges)])
    assert cut == whole
    assert cut_tail == tail
