"""Where the parts of a JSON text lie, so that one can be replaced and every other byte stays as it was written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec

Edit: TypeAlias = tuple[int, int, bytes]
"""Start and end of a span, and what stands there instead. Two edits never overlap."""
Field: TypeAlias = tuple[str, int, int, int]
"""A field of an object: its name, unescaped; where its name begins; where its value begins, and ends."""

_NAME: Final = re.compile(rb'[ \t\r\n]*("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\r\n]*:[ \t\r\n]*')
_BLANKS: Final = re.compile(rb"[ \t\r\n]*")
_AFTER_VALUE: Final = re.compile(rb"[ \t\r\n]*([,}\]])")
_NO_NUMBER: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|-?(?:NaN|Infinity)')

_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_NAME_TEXT: Final = msgspec.json.Decoder(str)


class RepeatedNameError(ValueError):
    """An object has two fields of one name; `args[0]` is the name."""


def walk(data: bytes, start: int, values: Mapping[str, msgspec.Raw]) -> list[Field]:
    """The fields of the object that begins at `start` and was decoded to `values`. Of two equal names they hold the last, so a
    value that is not at its place is one that a later field of that name replaced. Raises RepeatedNameError."""
    found: list[Field] = []
    seen: set[str] = set()
    position = data.index(b"{", start) + 1
    while len(found) <= len(values) and (match := _NAME.match(data, position)) is not None:
        name = _NAME_TEXT.decode(match[1])
        begin = match.end()
        value = values[name]
        end = begin + len(value)
        after = _AFTER_VALUE.match(data, end)
        if name in seen or after is None or not data.startswith(bytes(value), begin):
            raise RepeatedNameError(name)
        seen.add(name)
        found.append((name, match.start(1), begin, end))
        position = after.end()
        if after[1] == b"}":
            break
    return found


def fields(data: bytes, start: int, end: int) -> list[Field]:
    """The fields of the object that `data[start:end]` is. Raises RepeatedNameError, and msgspec.DecodeError where it is none."""
    return walk(data, start, _FIELDS.decode(data[start:end]))


def items(data: bytes, start: int, end: int) -> list[tuple[int, int]]:
    """Where each item of the array that `data[start:end]` is begins and ends. Raises msgspec.DecodeError where it is none."""
    found: list[tuple[int, int]] = []
    position = data.index(b"[", start) + 1
    for value in _ITEMS.decode(data[start:end]):
        blanks = _BLANKS.match(data, position)
        begin = blanks.end() if blanks is not None else position
        found.append((begin, begin + len(value)))
        after = _AFTER_VALUE.match(data, begin + len(value))
        if after is None:
            break
        position = after.end()
    return found


def spliced(data: bytes, edits: list[Edit]) -> tuple[bytes, ...]:
    """`data` with each edit's span replaced, in parts."""
    parts: list[bytes] = []
    position = 0
    for start, end, replacement in sorted(edits):
        parts += (data[position:start], replacement)
        position = end
    parts.append(data[position:])
    return tuple(parts)


def numbers_only(data: bytes) -> bytes:
    """JSON text in which what some engines write where JSON has no number (`NaN`, `Infinity`) is a string of the same length, and
    -Infinity a number that stands for it: nothing moves."""
    if data.find(b"NaN") < 0 and data.find(b"Infinity") < 0:
        return data
    return _NO_NUMBER.sub(_in_its_place, data)


def _in_its_place(match: re.Match[bytes]) -> bytes:
    found = match[0]
    if found.startswith(b'"'):
        return found
    return b"-99999999" if found == b"-Infinity" else b'"' + b" " * (len(found) - 2) + b'"'
