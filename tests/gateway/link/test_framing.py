from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import LinkError
from gateway.link.framing import FRAME_BYTES_MAX, FrameReader, encode_frame
from gateway.link.messages import Ack, CascadeState, Down, Overlay, Prepare, ReplicaState, Swap

MESSAGES: list[Down] = [
    Ack(3),
    Prepare("v", b"\0" * 300, "/x"),
    Swap("v"),
    Overlay(2, (ReplicaState("b", "r", True),), ("a",), (CascadeState("c", 1, False),)),
]


def reader() -> FrameReader[Down]:
    return FrameReader(msgspec.msgpack.Decoder(Down))


@given(st.lists(st.sampled_from(MESSAGES), max_size=6), st.data())
def test_messages_arrive_whatever_the_pieces(messages: list[Down], data: st.DataObject) -> None:
    stream = b"".join(encode_frame(message) for message in messages)
    frames = reader()
    heard: list[Down] = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        heard += frames.feed(stream[:cut])
        stream = stream[cut:]
    assert heard == messages


@given(st.binary(max_size=200))
def test_garbage_is_a_link_error_or_waits_for_more(garbage: bytes) -> None:
    try:
        reader().feed(garbage)
        reader().feed(len(garbage).to_bytes(4, "big") + garbage)
    except LinkError:
        pass


def test_a_length_over_the_limit_is_refused_before_it_is_buffered() -> None:
    with pytest.raises(LinkError, match="over the link's"):
        reader().feed((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))


def test_a_message_over_the_limit_is_refused_by_the_sender() -> None:
    with pytest.raises(LinkError, match="over the link's"):
        encode_frame(Prepare("v", bytes(FRAME_BYTES_MAX), ""))
