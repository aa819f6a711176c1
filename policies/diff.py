"""What changes between two policies, in the words of the file. Secrets are compared, never shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from policies.fields import Field, Group, Leaf, Many, in_file, policy_shape
from policies.reference import flow
from policies.schema import Policy

_SHOWN_MAX = 200


class Change(msgspec.Struct, frozen=True):
    """One difference: `route chat: backend small -> big`."""

    what: Literal["added", "removed", "changed"]
    where: str
    """`route chat`; the group's key for what has no name: `server`."""
    detail: str = ""
    """`backend small -> big`; "" where the whole thing came or went."""

    def __str__(self) -> str:
        return f"{self.where}: {self.detail or self.what}"


def diff(old: Policy, new: Policy) -> list[Change]:
    """In the order of the file. Both must have their secrets in the same form: filled in, or hashed."""
    changes: list[Change] = []
    for field in policy_shape().fields:
        before, after = getattr(old, field.attribute), getattr(new, field.attribute)
        if isinstance(field.shape, Many) and isinstance(field.shape.item, Group):
            changes += _named(field, field.shape.item, before, after)
        elif isinstance(field.shape, Group):
            changes += _fields(field.name, field.shape, before, after)
    return changes


def _named(field: Field, shape: Group, old: tuple[Any, ...], new: tuple[Any, ...]) -> Iterator[Change]:
    word = shape.cls.__name__.lower()
    before, after = {entry.name: entry for entry in old}, {entry.name: entry for entry in new}
    for name in (*before, *(name for name in after if name not in before)):
        if name not in after:
            yield Change("removed", f"{word} {name}")
        elif name not in before:
            yield Change("added", f"{word} {name}")
        else:
            yield from _fields(f"{word} {name}", shape, before[name], after[name])
    kept_before, kept_after = [n for n in before if n in after], [n for n in after if n in before]
    if field.name == "routes" and kept_before != kept_after:
        yield Change("changed", "routes", f"order {_shown(kept_before)} -> {_shown(kept_after)}")


def _fields(where: str, shape: Group, old: Any, new: Any, prefix: str = "") -> Iterator[Change]:
    for field in shape.fields:
        before, after = getattr(old, field.attribute), getattr(new, field.attribute)
        if before == after:
            continue
        name = f"{prefix}{field.name}"
        if isinstance(field.shape, Group) and before is not None and after is not None:
            yield from _fields(where, field.shape, before, after, f"{name}.")
        elif isinstance(field.shape, Leaf) and field.shape.unit == "secret":
            yield Change("changed", where, f"{name} {'set' if before is None else 'removed' if after is None else 'changed'}")
        else:
            shown_before, shown_after = (_shown(in_file(value, field.shape)) for value in (before, after))
            arrow = "changed" if shown_before == shown_after else f"{shown_before} -> {shown_after}"
            yield Change("changed", where, f"{name} {arrow}")


def _shown(value: Any) -> str:
    text = "none" if value in (None, [], {}) else flow(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."
