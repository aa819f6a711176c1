"""The guard text: what of a request is scored. One extraction for fit, score, explain and live traffic.

A change of what comes out for any input is a new `TEXT_VERSION`: a detector is bound to the version it was fitted with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

TEXT_VERSION = 1

TextKind: TypeAlias = Literal["last_user", "user_turns", "conversation"]
TEXT_KINDS: tuple[TextKind, ...] = get_args(TextKind)

TEXT_CHARS_MAX = 2048
"""Characters of a guard text; of a longer one its beginning and its end are kept, so that an enormous prompt costs no more."""
TURNS_MAX = 256
"""Turns that are looked at, from the end."""


class Turn(NamedTuple):
    """One message: who speaks, and the text of it (parts joined by newlines)."""

    role: str
    text: str


def turns(messages: object) -> list[Turn]:
    """The turns of a request's decoded `messages`; a bare string is one user turn. What is not text is left out, and what is
    not a message too: the backend will say so."""
    if isinstance(messages, str):
        return [Turn("user", messages)]
    if not isinstance(messages, Sequence):
        return []
    found = []
    for each in messages[-TURNS_MAX:]:
        # What JSON is decoded to first: to ask an abstract class takes longer than the rest.
        if (type(each) is dict or isinstance(each, Mapping)) and isinstance(role := each.get("role"), str):
            content = each.get("content")
            found.append(Turn(role, content if type(content) is str else "\n".join(_texts(content))))
    return found


def request_turns(body: Mapping[str, object]) -> list[Turn]:
    """The turns of a request's decoded body, whatever its endpoint: its messages, its prompt, or its input."""
    said = next((body[name] for name in ("messages", "prompt", "input") if body.get(name) is not None), None)
    return turns(said)


def guard_text(of: Sequence[Turn], kind: TextKind) -> str | None:
    """The text to score, at most `TEXT_CHARS_MAX` characters; None where there is none (only images): `unavailable`.

    `last_user`: the last user turn. `user_turns`: all of them. `conversation`: every turn but the system's.
    """
    recent = of[-TURNS_MAX:]
    if kind == "last_user":
        text = next((turn.text for turn in reversed(recent) if turn.role == "user"), "")
    elif kind == "user_turns":
        text = "\n".join(turn.text for turn in recent if turn.role == "user")
    else:
        text = "\n".join(turn.text for turn in recent if turn.role not in ("system", "developer"))
    return bounded(text) if text and not text.isspace() else None


def bounded(text: str) -> str:
    """The text, or its beginning and end where it is longer than `TEXT_CHARS_MAX`."""
    half = TEXT_CHARS_MAX // 2
    return text if len(text) <= TEXT_CHARS_MAX else text[:half] + text[-half:]


def _texts(content: object) -> Iterable[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Sequence):
        for part in content:
            if (type(part) is dict or isinstance(part, Mapping)) and isinstance(text := part.get("text"), str):
                yield text
