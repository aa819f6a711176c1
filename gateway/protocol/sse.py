"""Server-sent events as bytes: where each event ends, and what it says. HTML Living Standard, 9.2.

A line ends with LF, CRLF or CR, in any mixture; an event ends with a blank line.
"""

from __future__ import annotations

import re
from typing import Final

BOM: Final = b"\xef\xbb\xbf"

_EVENT_END: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_CR: Final = 0x0D
_LF: Final = 0x0A


class EventSplitter:
    """Cuts a stream into whole events, whatever the pieces it arrives in: what was cut and `tail` joined are the stream."""

    __slots__ = ("_only_lf", "tail")

    def __init__(self) -> None:
        self._only_lf = True
        self.tail = bytearray()
        """The beginning of an event that has not ended yet."""

    def split(self, data: bytes) -> list[bytes]:
        """The events that `data` completes, each with its blank line. A line end where an event would begin is an event of its
        own: an empty one, or the LF of a CRLF whose CR came before."""
        if _CR in data:
            self._only_lf = False
        tail = self.tail
        if not tail:
            if self._only_lf and 0 < data.find(b"\n\n") == len(data) - 2 and data[0] != _LF:
                return [data]  # most reads bring one event
            events, end = _cut(data, 0, self._only_lf)
            if end < len(data):
                tail += data[end:]
            return events
        seen = max(0, len(tail) - 3)  # a blank line may have begun in what was there
        tail += data
        events, end = _cut(tail, seen, self._only_lf)
        del tail[:end]
        return events


def _cut(data: bytes | bytearray, seen: int, only_lf: bool) -> tuple[list[bytes], int]:
    """The whole events of `data`, of which no blank line ends before `seen`; and where the rest begins."""
    events = []
    size = len(data)
    start = 0
    while start < size:
        if data[start] == _LF or data[start] == _CR:
            end = start + (2 if data[start : start + 2] == b"\r\n" else 1)
        elif only_lf:
            end = data.find(b"\n\n", max(start, seen)) + 2
            if end < 2:
                break
        else:
            match = _EVENT_END.search(data, max(start, seen))
            if match is None:
                break
            end = match.end()
        events.append(bytes(data[start:end]))
        start = end
    return events, start


def is_line_end(event: bytes) -> bool:
    """A line end alone, not an event."""
    return event in (b"\n", b"\r", b"\r\n")


def event_data(event: bytes) -> bytes | None:
    """The data of one whole event, its lines joined by LF; None where it has none (a comment). The event's name is not
    needed: in every format that is read here the data repeats it."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and _CR not in event:
        return event[6:-2]
    lines = []
    for line in event.splitlines():
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
