"""Recognises a message whose head is the one that came before it.

A client sends the same head with every request, and a backend with every response of a second: byte for byte, but for the number in
its `content-length`. What the parser made of it once holds again, so such a message is not parsed. This recognises; it does not parse:
whatever differs by one byte, or does not come whole in one read, goes to the parser.
"""

from __future__ import annotations

import re
from typing import Final, final

_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*\r\n", re.IGNORECASE)
_DIGITS_MAX: Final = 10


@final
class KnownHead:
    """A head, cut where its `content-length` has its number, and its fields."""

    __slots__ = ("_after", "_after_bytes", "_before", "_before_bytes", "_headers", "made_of_it")

    def __init__(self, before: bytes, after: bytes, headers: dict[bytes, bytes]) -> None:
        self._before = before
        self._before_bytes = len(before)
        self._after = after
        self._after_bytes = len(after)
        self._headers = headers
        self.made_of_it: object = None
        """What the reader of messages with this head wants to remember with it: whatever follows from the head alone."""

    def body(self, data: bytes) -> bytes | None:
        """The body, if `data` is one whole message with this head and a body that is not empty; else None."""
        if not data.startswith(self._before):
            return None
        size, end = len(data), self._before_bytes
        last = min(size, end + _DIGITS_MAX)
        length = 0
        # Digit by digit, which is quick where it is compiled, and takes no "+5", "5_0" or "05" for a number.
        while end < last:
            digit = data[end] - 0x30
            if digit < 0 or digit > 9 or not (digit or length):
                break
            length = length * 10 + digit
            end += 1
        start = end + self._after_bytes
        return data[start:] if length and start + length == size and data[end:start] == self._after else None

    def headers(self, body: bytes) -> dict[bytes, bytes]:
        """The fields of a message with this body, in a dict of the caller's own."""
        headers = self._headers.copy()
        headers[b"content-length"] = b"%d" % len(body)
        return headers


def learn(data: bytes, headers: dict[bytes, bytes]) -> KnownHead | None:
    """From a whole message and its fields as they were parsed; None where its body is not as long as its one `content-length` says."""
    end = data.find(b"\r\n\r\n")
    match = _LENGTH.search(data, 0, end + 2) if end > 0 else None
    if match is None or headers.get(b"content-length") != match[1] or len(data) - end - 4 != int(match[1]):
        return None
    return KnownHead(data[: match.start(1)], data[match.end(1) : end + 4], headers.copy())
