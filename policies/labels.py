"""Labels of a request: the unit (who the user is) and the segments that it counts in."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

from policies.plan import Features
from policies.schema import Segment

Reader: TypeAlias = Callable[[Features], str | None]
"""Reads one label off a request; None where it has none."""

UNIT_CHARS_MAX = 256
"""A longer unit counts as missing: it comes from outside and stands in every record."""


def header(name: str) -> Reader:
    """Of the request header; an empty one is none."""
    return lambda features: features.headers.get(name) or None


def key_label(label: str) -> Reader:
    """Of the label of the API key."""
    return lambda features: features.labels.get(label)


def unit_reader(source: str) -> Reader:
    """Of `header:NAME`, `body:user` or `key`."""
    if source == "key":
        return lambda features: features.key
    if source == "body:user":
        return lambda features: features.user or None
    return header(source.removeprefix("header:").lower())


def first_unit(readers: tuple[Reader, ...], features: Features) -> str | None:
    """The first unit that is present, None where there is none."""
    for read in readers:
        unit = read(features)
        if unit is not None and len(unit) <= UNIT_CHARS_MAX:
            return unit
    return None


class CompiledSegment:
    """One segment, ready to be asked: always one of a bounded set of values."""

    __slots__ = ("_edges", "_else", "_names", "_read", "_values", "name")

    def __init__(self, segment: Segment) -> None:
        self.name = segment.name
        self._else = segment.else_
        self._values = frozenset(segment.values)
        self._edges = segment.edges
        self._names = edge_names(segment.edges)
        self._read: Reader | None = None
        if segment.from_.startswith("key:"):
            self._read = key_label(segment.from_.removeprefix("key:"))
        elif segment.from_.startswith("header:"):
            self._read = header(segment.from_.removeprefix("header:").lower())

    def value(self, features: Features) -> str:
        if self._read is None:
            return self._names[bisect_right(self._edges, features.prompt_chars)]
        value = self._read(features)
        return value if value in self._values else self._else


def edge_names(edges: tuple[int, ...]) -> tuple[str, ...]:
    """`[200, 1000]` makes `<200`, `200-999`, `>=1000`."""
    if not edges:
        return ("all",)
    inner = [f"{low}-{high - 1}" if high - 1 > low else f"{low}" for low, high in pairwise(edges)]
    return (f"<{edges[0]}", *inner, f">={edges[-1]}")
