"""What a request says, for its guard text, without making objects of a large body: of it only the last turns are looked at, and of a
long text its two ends. What comes out of `policies.ood.text.guard_text` is the same to the last character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from policies.ood.text import TEXT_CHARS_MAX, TURNS_MAX, Turn, request_turns

SAID = ("messages", "prompt", "input")
"""The fields of a body that `request_turns` looks at, the first that is there."""
WHOLE_BYTES_MAX = 128 * 1024
"""A field that is not larger is decoded as it is."""
OBJECTS_MAX = 65_536
"""Opening braces of a larger one, more than which are not decoded: some 20 ms."""
_END_BYTES = 12 * TEXT_CHARS_MAX // 2 + 64
"""So many bytes hold the characters of one end, however they are written: at most 12 each, as two escapes."""
_SEAM = re.compile(rb"[^\\]{6}|[^\\]\\[^u]|[^\\]\\u(?:[0-9abcefABCEF][0-9a-fA-F]|[dD][0-7c-fC-F])[0-9a-fA-F]{2}")
"""Its end is never within an escape, nor between the two of a pair."""
_UNITS = re.compile(rb"(?:[^\\]|\\[^u]|\\u(?:[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4}|(?![dD][89abAB])[0-9a-fA-F]{4}))*+")
"""Whole characters."""


_QUOTE, _BRACKET = b'"['


class _Message(msgspec.Struct):
    role: Any = None
    content: msgspec.Raw = msgspec.Raw(b"null")


class _Part(msgspec.Struct):
    text: msgspec.Raw = msgspec.Raw(b"null")


_MESSAGES = msgspec.json.Decoder(list[_Message])
_PARTS = msgspec.json.Decoder(list[_Part])


def said_turns(said: Mapping[str, bytes]) -> list[Turn]:
    """The turns of a body's fields, of those in `SAID`, as JSON. None of them where that is not what an endpoint takes, or has more
    than `OBJECTS_MAX` objects."""
    field = next((said[name] for name in SAID if name in said and said[name] != b"null"), b"null")
    try:
        return request_turns({"messages": msgspec.json.decode(field)}) if len(field) <= WHOLE_BYTES_MAX else list(_large(field))
    except (msgspec.DecodeError, RecursionError):
        return []


def _large(field: bytes) -> Iterator[Turn]:
    if field.startswith(b'"'):
        yield Turn("user", _ends(field))
        return
    if field.count(b"{") > OBJECTS_MAX:
        return
    for message in [each for each in _MESSAGES.decode(field)[-TURNS_MAX:] if isinstance(each.role, str)]:
        yield Turn(message.role, "\n".join(_texts(memoryview(message.content))))


def _texts(content: memoryview) -> Iterator[str]:
    if content[0] == _QUOTE:
        yield _ends(content)
    elif content[0] == _BRACKET:
        for part in _PARTS.decode(content):
            text = memoryview(part.text)
            if text[0] == _QUOTE:
                yield _ends(text)


def _ends(literal: bytes | memoryview) -> str:
    """The text of a JSON string; of a long one its beginning and its end, each of at least half of `TEXT_CHARS_MAX` characters, so
    that `policies.ood.text.bounded` makes the same of it. Raises msgspec.DecodeError where an end is no text, or one run of backslashes."""
    if len(literal) <= 4 * _END_BYTES:
        return _decoded(bytes(literal[1:-1]))
    head = _UNITS.match(literal, 1, _END_BYTES)
    seam = _SEAM.search(literal, len(literal) - 2 * _END_BYTES, len(literal) - _END_BYTES)
    if head is None or head.end() < _END_BYTES - 12 or seam is None:
        raise msgspec.DecodeError("a text whose end cannot be told from its middle")
    return _decoded(bytes(head[0])) + _decoded(bytes(literal[seam.end() : -1]))


def _decoded(inside: bytes) -> str:
    """Between the quotes; a character that was cut in two at either end is left out."""
    text: str = msgspec.json.decode(b'"' + inside.decode("utf-8", "ignore").encode() + b'"', type=str)
    return text
