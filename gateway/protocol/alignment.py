"""Which tokens of a whole reply are its content, its reasoning, its tool calls: the list of log-probabilities does not say.

It is one list over everything that the model wrote, markup included, so the texts of its tokens are joined and the parts of the
message looked up in them, in the order in which a model writes them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import Any, Final

import msgspec

from gateway.protocol.reply_shapes import TOKEN_BYTES, WholeChoice, WrittenEntry
from policies.plan import TokenKind

_UNEVEN: Final = bytes([each for each in range(256) if not 0x21 <= each <= 0x7E])
"""Blanks, which parsers of tool calls write anew, and all beyond ASCII, of which a token may hold a part."""


def scored(choice: WholeChoice, entries: list[WrittenEntry], kind: TokenKind) -> list[WrittenEntry] | None:
    """The entries of that kind of token; None where it cannot be told which they are."""
    end = len(entries)
    if end and entries[-1].token == "" and bytes(entries[-1].bytes) == b"[]":
        end -= 1  # llama-server's end of the sequence, which it leaves out of a stream
    message = choice.message or {}
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    content = message.get("content") or message.get("refusal")
    calls = arguments(message)
    if kind == "all":
        return entries[:end]
    parts = [part for part in (reasoning, content) if part]
    if kind == "content":
        if not reasoning and calls is None:
            return entries[:end]
        if not content:
            return []
    elif not calls:
        return []
    else:
        parts += calls
    if not all(isinstance(part, str) for part in parts):
        return None
    spans = located([_bytes(each) for each in entries[:end]], [part.encode(errors="replace") for part in parts])
    if spans is None:
        return None
    if kind == "content":
        first, last = spans[-1]
        return entries[first : end if calls is None else last]
    assert calls is not None
    return [entry for first, last in spans[-len(calls) :] for entry in entries[first:last]]


def ends_early(choice: WholeChoice) -> bool:
    """The evidence ends before the text: what its tokens say is less than the message. (It may be more: markup, the end.)"""
    if choice.message is None or choice.logprobs is None:
        return False
    entries = [*(choice.logprobs.content or ()), *(choice.logprobs.refusal or ())]
    said = choice.message.get("content")
    if not isinstance(said, str) or not any(each.token for each in entries):
        return False
    return sum([len(_bytes(each)) for each in entries]) < len(said.encode(errors="replace"))


def arguments(message: dict[str, Any]) -> list[str] | None:
    """The arguments of the message's tool calls; None where it has no call."""
    calls = message.get("tool_calls")
    functions = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    functions.append(message.get("function_call"))
    found = [function.get("arguments") for function in functions if isinstance(function, dict)]
    return [each for each in found if isinstance(each, str) and each] if found else None


def located(tokens: list[bytes], parts: list[bytes]) -> list[tuple[int, int]] | None:
    """Of each part the first token and the one after its last; None if one of them is not there in that order. If they are not
    there to the letter they are sought without blanks and without what is not ASCII."""
    return _located(tokens, parts) or _located(
        [token.translate(None, _UNEVEN) for token in tokens], [part.translate(None, _UNEVEN) for part in parts]
    )


def _located(tokens: list[bytes], parts: list[bytes]) -> list[tuple[int, int]] | None:
    joined = b"".join(tokens)
    ends = list(accumulate([len(token) for token in tokens]))
    found: list[tuple[int, int]] = []
    position = 0
    for part in parts:
        at = joined.find(part, position) if part else -1
        if at < 0:
            return None
        position = at + len(part)
        found.append((bisect_right(ends, at), bisect_left(ends, position) + 1))
    return found


def _bytes(entry: WrittenEntry) -> bytes:
    try:
        return bytes(TOKEN_BYTES.decode(entry.bytes))
    except (msgspec.DecodeError, ValueError):  # none are given, or they are none
        pass
    return entry.token.encode(errors="replace") if isinstance(entry.token, str) else b""
