"""The text of a prompt, read only when a policy asks for it: how long it is, and which conversation it belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import TypeAlias

import msgspec

from policies.plan import Endpoint

AFFINITY_CHARS_MAX = 4096
"""Characters of each text that the affinity looks at."""
AFFINITY_PROMPT_CHARS_MAX = 256
"""The same for a bare prompt, which grows with every turn: short, so that later turns begin alike."""

Fields: TypeAlias = Mapping[str, msgspec.Raw]


class _InnerPart(msgspec.Struct):
    text: str | None = None


class _Part(msgspec.Struct):
    """One part of a content list; a tool result holds parts of its own."""

    text: str | None = None
    content: str | list[_InnerPart] | None = None


class _Message(msgspec.Struct):
    role: str | None = None
    content: str | list[_Part] | None = None


_MESSAGES = msgspec.json.Decoder(list[_Message])
_TEXT_OR_MESSAGES = msgspec.json.Decoder(str | list[_Message] | None)
_TEXT_OR_PARTS = msgspec.json.Decoder(str | list[_Part] | None)
_TEXTS = msgspec.json.Decoder(str | list[str] | None)
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])


def prompt_chars(endpoint: Endpoint, fields: Fields) -> int:
    """Characters of text in the prompt; 0 where there is none, or where it is not what the endpoint takes."""
    return sum(len(text) for text in _texts(endpoint, fields, first_turn=False))


def affinity(endpoint: Endpoint, fields: Fields) -> int:
    """A stable 64-bit hash of what the prompt begins with, up to the first user's text."""
    limit = AFFINITY_PROMPT_CHARS_MAX if endpoint in ("completions", "embeddings") else AFFINITY_CHARS_MAX
    digest = blake2b(digest_size=8)
    for text in _texts(endpoint, fields, first_turn=True):
        digest.update(text[:limit].encode())
        digest.update(b"\0")
    return int.from_bytes(digest.digest(), "big")


def prompts(fields: Fields) -> int:
    """How many prompts a completions body asks to complete: each element of a list, unless those are the tokens of one."""
    prompt = fields.get("prompt")
    if prompt is None:
        return 1
    try:
        items = _ITEMS.decode(prompt)
    except (msgspec.DecodeError, RecursionError):
        return 1
    return len(items) if items and bytes(items[0])[:1] in (b'"', b"[") else 1


def _texts(endpoint: Endpoint, fields: Fields, *, first_turn: bool) -> Iterator[str]:
    """The texts of a prompt in their order; with `first_turn` only up to the first user's."""
    try:
        if endpoint == "completions" or endpoint == "embeddings":
            name = "prompt" if endpoint == "completions" else "input"
            found = _TEXTS.decode(fields[name]) if name in fields else None
            texts = found if isinstance(found, list) else [found or ""]
            yield from texts[:1] if first_turn else texts
            return
        preface = {"responses": "instructions", "messages": "system"}.get(endpoint, "")
        if preface in fields:
            yield from _content(_TEXT_OR_PARTS.decode(fields[preface]))
        if endpoint == "responses":
            given = _TEXT_OR_MESSAGES.decode(fields["input"]) if "input" in fields else None
            messages = [_Message("user", given)] if isinstance(given, str) else given or []
        else:
            messages = _MESSAGES.decode(fields["messages"]) if "messages" in fields else []
    except (msgspec.DecodeError, RecursionError):
        return  # token ids, or a shape that the backend will refuse
    for message in messages:
        yield from _content(message.content)
        if first_turn and message.role == "user":
            return


def _content(content: str | list[_Part] | None) -> Iterator[str]:
    if content is None:
        return
    if isinstance(content, str):
        yield content
        return
    for part in content:
        if part.text is not None:
            yield part.text
        if isinstance(part.content, str):
            yield part.content
        elif part.content is not None:
            for inner in part.content:
                if inner.text is not None:
                    yield inner.text
