"""Do two replies to the same request agree: what an audit of a cascade asks.

What is compared is what a client reads: the text (without reasoning) and the tool calls. Tool calls agree where the same tools are
called in the same order with arguments that are the same JSON; where they do not, nothing else counts. A reply of tool calls alone
has nothing else that could differ.
"""

from __future__ import annotations

from typing import Any

import msgspec

from policies.plan import Agreement

_OPENING = "\"'`*_#>([{“‘«"
_CLOSING = "\"'`*_)]}”’».,:;!"
"""Marks around a label: quotes, brackets, Markdown, and the end of a sentence. Signs that may tell labels apart (`C++`, `-1`) are none."""


class Said(msgspec.Struct, frozen=True):
    """What a reply says to its client."""

    text: str = ""
    tools: tuple[tuple[str, str], ...] = ()
    """Name and arguments (JSON, as it was written) of each tool call, in order."""


def agree(how: Agreement, one: Said, other: Said) -> bool | None:
    """Whether two replies agree; None where that cannot be told: neither has a label, or neither is a JSON object. A reply that has one
    and a reply that has none do not agree.

    `exact`: the same text, but for white space around it. `label`: the same first line, without regard to case, runs of white space and
    the marks around it. `json_fields`: objects with the same fields and the same values, in whatever order; 1 and 1.0 are the same, and a
    code fence around the object is none of it. ValueError for `judge`, which is no function of two texts.
    """
    if not _same_tools(one.tools, other.tools):
        return False
    if how == "exact":
        return one.text.strip() == other.text.strip()
    if how == "judge":
        raise ValueError("judge is not supported yet")
    if one.tools:
        return True
    first: Any
    second: Any
    if how == "label":
        first, second = label(one.text), label(other.text)
    else:
        first, second = _object(one.text), _object(other.text)
    if first is None and second is None:
        return None
    return first is not None and second is not None and _same(first, second)


def label(text: str) -> str | None:
    """The label that a reply gives; None where it gives none."""
    for line in text.splitlines():
        found = " ".join(line.split()).lstrip(_OPENING + " ").rstrip(_CLOSING + " ").casefold()
        if found:
            return found
    return None


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object that a reply is."""
    text = text.strip()
    if text.startswith("```"):
        text = text.partition("\n")[2].removesuffix("```")
    value = _json(text)
    return value if isinstance(value, dict) else None


def _json(text: str) -> Any:
    """None where it is no JSON; and for `null`, which is no object and no arguments either."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _same_tools(one: tuple[tuple[str, str], ...], other: tuple[tuple[str, str], ...]) -> bool:
    return len(one) == len(other) and all(
        name == also and _same_arguments(these, those) for (name, these), (also, those) in zip(one, other, strict=True)
    )


def _same_arguments(one: str, other: str) -> bool:
    if one == other:
        return True
    first = _json(one)
    return first is not None and _same(first, _json(other))


def _same(one: Any, other: Any) -> bool:
    """The same JSON. Python takes True for 1; JSON does not. As deep as the decoder lets a value be."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)
