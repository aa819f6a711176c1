"""Frames on the link: four bytes of length, big-endian, and so much msgpack. A bad frame is a `LinkError`, never a crash."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from gateway.errors import LinkError

FRAME_BYTES_MAX = 16 * 1024 * 1024
_HEAD = 4

Message = TypeVar("Message")


def encode_frame(message: object) -> bytes:
    """The frame of one message.

    Raises:
        LinkError: It is longer than `FRAME_BYTES_MAX`.
    """
    body = msgspec.msgpack.encode(message)
    if len(body) > FRAME_BYTES_MAX:
        raise LinkError(f"a message of {len(body)} bytes is over the link's {FRAME_BYTES_MAX}")
    return len(body).to_bytes(_HEAD, "big") + body


class FrameReader(Generic[Message]):
    """Bytes in whatever pieces, messages out. Keeps at most one frame and one read."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[Message]) -> None:
        self._decode = decoder.decode
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes.

        Raises:
            LinkError: The peer does not speak this protocol; the connection is of no further use.
        """
        self._buffer += data
        messages: list[Message] = []
        start = 0
        view = memoryview(self._buffer)
        try:
            while len(view) - start >= _HEAD:
                length = int.from_bytes(view[start : start + _HEAD], "big")
                if length > FRAME_BYTES_MAX:
                    raise LinkError(f"a frame of {length} bytes is over the link's {FRAME_BYTES_MAX}")
                end = start + _HEAD + length
                if len(view) < end:
                    break
                messages.append(self._message(view[start + _HEAD : end]))
                start = end
        finally:
            view.release()
        del self._buffer[:start]
        return messages

    def _message(self, body: memoryview) -> Message:
        try:
            return self._decode(body)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise LinkError(f"a frame that is no message of this link: {error}") from error
        finally:
            body.release()
