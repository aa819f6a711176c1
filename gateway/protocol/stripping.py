"""Taking out of a reply what it holds only because the gateway asked for evidence.

The reply then is what the backend would have written had the gateway not asked; every other byte is as it was. Where the client
asked for no log-probabilities, engines write `"logprobs":null` if they write the field before others of the choice, and leave it
out if it is their last (llama-server, Ollama). Where it asked for fewer of the likeliest tokens, their lists are cut.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.protocol.chunk_shapes import LISTED_LOGPROBS
from gateway.protocol.spans import Edit, Field, RepeatedNameError, fields, items, numbers_only, spliced

NOTHING: Final = -1
"""Of the log-probabilities nothing is for the client, who asked for none. Any other number says how many of the likeliest tokens it
asked for at each position."""

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What comes of bytes that are not the JSON that they should be."""
LOGPROBS_NAME: Final = b'"logprobs"'

_LIST: Final = b'"top_logprobs":['
_OBJECT: Final = 0x7B
_ARRAY: Final = 0x5B


def strip(data: bytes, keep: int) -> bytes:
    """A chunk or a whole reply with no more log-probabilities than the client asked for (`keep`); `data` itself where it has no
    more. Raises msgspec.DecodeError where it is no JSON object; UNREADABLE is all that may come."""
    if data.find(LOGPROBS_NAME) < 0:
        return data
    readable = numbers_only(data)
    edits: list[Edit] = []
    try:
        for start, end in choices(readable):
            edits += _choice(readable, start, end, keep)
    except RepeatedNameError:  # what is read of it is the last of them: so is what stays
        return strip(msgspec.json.encode(msgspec.json.decode(readable)), keep)
    return b"".join(spliced(data, edits)) if edits else data


def strip_event(event: bytes, data: bytes, stripped: bytes) -> bytes:
    """A server-sent event with other data; its other lines stay."""
    if stripped is data:
        return event
    if event.startswith(b"data: ") and len(event) == len(data) + 8:
        return b"data: %b\n\n" % stripped
    lines = stripped.split(b"\n")
    parts: list[bytes] = []
    for line in event.splitlines(keepends=True):
        name = line.removeprefix(b"\xef\xbb\xbf").partition(b":")[0].rstrip(b"\r\n")
        if name != b"data":
            parts.append(line)
        elif lines:
            bare = line.rstrip(b"\r\n")
            mark = bare[: bare.index(b"data")]
            parts.append(mark + b"data: " + lines.pop(0) + line[len(bare) :])
    return b"".join(parts)


def choices(data: bytes) -> list[tuple[int, int]]:
    """Where each choice of a chunk or a whole reply begins and ends. Raises RepeatedNameError, and msgspec.DecodeError."""
    found: list[tuple[int, int]] = []
    for name, _, start, end in fields(data, 0, len(data)):
        if name == "choices" and data[start] == _ARRAY:
            found += [each for each in items(data, start, end) if data[each[0]] == _OBJECT]
    return found


def cut(logprobs: bytes, keep: int, *, omits: bool) -> bytes | None:
    """Log-probabilities in the shape of chat, written without blanks, with their lists cut; None where they are written otherwise.
    `omits`: an engine that leaves out a list where none was asked for."""
    try:
        entries = LISTED_LOGPROBS.decode(logprobs).content
    except UNREADABLE:
        return None
    if logprobs.count(_LIST) != len(entries):  # so that each entry has one, and no other is anywhere within
        return None
    parts: list[bytes] = []
    position = seen = 0
    for entry in entries:
        top = entry.top_logprobs
        seen = at = logprobs.find(_LIST, seen) + len(_LIST)
        if not logprobs.startswith(b",".join(top) + b"]", at):
            return None
        leaves_out = omits and not keep
        if len(top) <= keep and not leaves_out:
            continue
        end = at + sum(map(len, top)) + max(len(top) - 1, 0)
        if keep:
            parts.append(logprobs[position : at + sum(map(len, top[:keep])) + keep - 1])
        elif not leaves_out:
            parts.append(logprobs[position:at])
        elif logprobs.startswith(b",", at - len(_LIST) - 1):
            parts.append(logprobs[position : at - len(_LIST) - 1])
            end += 1
        else:
            return None
        position = end
    return b"".join([*parts, logprobs[position:]])


def removal(data: bytes, written: list[Field], at: int) -> Edit:
    """How field number `at` of an object goes away: to null if others follow it, altogether if it is the last."""
    _, name_start, start, end = written[at]
    if at + 1 < len(written):
        return start, end, b"null"
    return (written[at - 1][3] if at else name_start), end, b""


def _choice(data: bytes, start: int, end: int, keep: int) -> list[Edit]:
    written = fields(data, start, end)
    for at, (name, _, begin, stop) in enumerate(written):
        if name == "logprobs" and data[begin] == _OBJECT:
            found = fields(data, begin, stop)
            if keep == NOTHING or (keep == 0 and _is_chat_in_completions(written, found)):
                return [removal(data, written, at)]
            edits: list[Edit] = []
            for part, _, first, last in found:
                if data[first] != _ARRAY:
                    continue
                if part == "top_logprobs":
                    edits += _column(data, first, last, keep)
                elif part == "content" or part == "refusal":
                    edits += _entries(data, first, last, keep, omits=at + 1 == len(written))
            return edits
    return []


def _is_chat_in_completions(written: list[Field], logprobs: list[Field]) -> bool:
    """llama-server answers `/v1/completions` in the shape of chat, and `"logprobs": 0` with none."""
    return any(field[0] == "text" for field in written) and any(field[0] == "content" for field in logprobs)


def _entries(data: bytes, start: int, end: int, keep: int, *, omits: bool) -> list[Edit]:
    """Chat's shape: an entry a token. `omits`: an engine that leaves out a list where none was asked for."""
    edits: list[Edit] = []
    for first, last in items(data, start, end):
        if data[first] != _OBJECT:
            continue
        written = fields(data, first, last)
        for at, (name, _, begin, stop) in enumerate(written):
            if name != "top_logprobs" or data[begin] != _ARRAY:
                continue
            if keep == 0 and omits:
                edits.append((written[at - 1][3] if at else begin, stop, b""))
            else:
                top = items(data, begin, stop)
                if len(top) > keep:
                    edits.append((top[keep - 1][1] if keep else begin + 1, stop - 1, b""))
    return edits


def _column(data: bytes, start: int, end: int, keep: int) -> list[Edit]:
    """The shape of completions: an object of tokens and their log-probabilities for each position."""
    edits: list[Edit] = []
    for first, last in items(data, start, end):
        if data[first] != _OBJECT:
            continue
        written = fields(data, first, last)
        values = [_number(data[begin:stop]) for _, _, begin, stop in written]
        number = len(likeliest(values, keep))
        if number < len(written):
            edits.append((written[number - 1][3], last - 1, b"") if number else (first + 1, last - 1, b""))
    return edits


def likeliest(values: list[object], number: int) -> list[object]:
    """Of the log-probabilities at a position, as completions write them, those that would be there had only so many been asked
    for: the chosen token's, which comes first whatever its rank, and the others among so many likeliest."""
    if not values or len(values) <= number:
        return values
    chosen = values[0]
    kept = [chosen]
    for rank, value in enumerate(values[1:], 1):
        above = isinstance(chosen, int | float) and isinstance(value, int | float) and chosen >= value
        if rank + above > number:
            break
        kept.append(value)
    return kept


def _number(value: bytes) -> object:
    try:
        return float(value)
    except ValueError:
        return None
