"""Chunks that lie whole in one read, taken without a parser. RFC 9112, 7.1."""

from __future__ import annotations

from typing import Final

_DIGITS_MAX: Final = 6
"""Of a length. A longer one is left to the parser."""
_CRLF: Final = b"\r\n"


def whole_chunks(data: bytes) -> bytes | None:
    """What is in the chunks of `data`, if it is nothing but whole chunks that say no more than their length and none of them is
    the last; else None."""
    size = len(data)
    at = 0
    pieces: list[bytes] = []
    while at < size:
        length, digit = 0, at
        while digit < size:
            each = data[digit]
            if 0x30 <= each <= 0x39:
                length = length * 16 + each - 0x30
            elif 0x61 <= each <= 0x66:
                length = length * 16 + each - 0x57
            elif 0x41 <= each <= 0x46:
                length = length * 16 + each - 0x37
            else:
                break
            digit += 1
            if digit - at > _DIGITS_MAX:
                return None
        begin = digit + 2
        end = begin + length
        at = end + 2
        if not length or at > size or data[digit:begin] != _CRLF or data[end:at] != _CRLF:
            return None
        pieces.append(data[begin:end])
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
