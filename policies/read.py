"""A tree of nodes to schema classes: types, units, unknown keys and references, everything that concerns one value alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from policies import document, units
from policies.document import Node, Scalar, below
from policies.errors import Mark, Report, nearest, shown
from policies.fields import Again, Choice, Either, Field, Group, Leaf, Many, Shape, Table, policy_shape
from policies.other_words import belongs, words_here
from policies.references import References
from policies.schema import Policy

_LOOKS_LIKE_REFERENCE = re.compile(r"\$\{(env|file):")
_T = TypeVar("_T")


class _Bad:
    """Stands for a value that was reported; whoever holds it says nothing more about it."""


_BAD = _Bad()


class Reading(msgspec.Struct):
    """A policy as far as it could be read, and where everything stands."""

    policy: Policy
    places: dict[str, Mark]
    """By path, of every value that the file writes."""
    faulty: set[str]
    """Paths of values that were reported: a neutral value stands in the policy instead."""
    incomplete: set[str]
    """Paths of groups with a key that was refused: what seems to be missing may be that."""
    files: Mapping[str, bytes]
    """What the files hold that the policy names."""


def read_policy(root: Node, report: Report, references: References) -> Reading:
    """As much of a policy as can be read; the rest goes to `report`."""
    return _Reader(report, references).policy(root)


class _Reader:
    def __init__(self, report: Report, references: References) -> None:
        self._report = report
        self._references = references
        self._places: dict[str, Mark] = {}
        self._faulty: set[str] = set()
        self._incomplete: set[str] = set()
        self._shape = policy_shape()

    def policy(self, root: Node) -> Reading:
        policy = self._read(root, self._shape, "")
        if not isinstance(policy, Policy):
            policy = _neutral(self._shape)
        return Reading(policy, self._places, self._faulty, self._incomplete, self._references.files)

    def _read(self, node: Node, shape: Shape, path: str) -> Any:
        self._places[path] = node.at
        if isinstance(node, Scalar) and node.value is None:
            value: Any = self._wrong(node, path, f"is empty; expected {_expected(shape)}", "leave the key out for its default")
        elif isinstance(shape, Either):
            value = self._either(node, shape, path)
        elif isinstance(shape, Group | Again):
            value = self._group(node, shape if isinstance(shape, Group) else shape.group(), path)
        elif isinstance(shape, Table):
            value = self._table(node, shape, path)
        elif isinstance(shape, Many):
            value = self._many(node, shape, path)
        elif not isinstance(node, Scalar):
            value = self._wrong(node, path, f"expected {_expected(shape)}, not {_kind(node)}")
        elif isinstance(shape, Choice):
            value = self._choice(node, shape, path)
        else:
            value = self._leaf(node, shape, path)
        if value is _BAD:
            self._faulty.add(path)
        return value

    def _wrong(self, node: Node, path: str, message: str, hint: str = "") -> _Bad:
        self._report.add(node.at, path, message, hint)
        return _BAD

    def _group(self, node: Node, shape: Group, path: str) -> Any:
        if not isinstance(node, document.Mapping):
            return self._wrong(node, path, f"expected a mapping, not {_kind(node)}")
        known = {field.name: field for field in shape.fields}
        values: dict[str, Any] = {}
        guessed: set[str] = set()
        for name, entry in node.entries.items():
            field = known.get(name)
            if field is None:
                guessed.add(self._unknown(name, entry.at, shape, path))
                continue
            value = self._read(entry.node, field.shape, below(path, name))
            if value is not _BAD:
                values[field.attribute] = value
        for field in shape.fields:
            if field.attribute in values or not field.required:
                continue
            values[field.attribute] = _neutral(field.shape)
            if field.name not in node.entries:
                self._faulty.add(below(path, field.name))
                if field.name not in guessed:
                    self._report.add(node.at, path, f'"{field.name}" is missing')
        return shape.cls(**values)

    def _unknown(self, name: str, at: Mark, shape: Group, path: str) -> str:
        """Reports it; the key it was probably meant to be, or ""."""
        self._incomplete.add(path)
        here = below(path, name)
        if name in shape.later:
            self._report.add(at, here, "not supported yet")
            return ""
        if name == "<<":
            self._report.add(at, here, "merge keys are not part of YAML 1.2", "give the whole value an anchor instead")
            return ""
        words = [field.name for field in shape.fields]
        hint = _called_here(name, shape) or nearest(name, (*words, *shape.later)) or belongs(name, self._shape)
        self._report.add(at, here, "unknown key", hint or f"known here: {', '.join(words)}")
        return next((word for word in words if f'"{word}"' in hint), "")

    def _table(self, node: Node, shape: Table, path: str) -> Any:
        if not isinstance(node, document.Mapping):
            return self._wrong(node, path, f"expected a mapping, not {_kind(node)}")
        if shape.max_length is not None and len(node.entries) > shape.max_length:
            return self._wrong(node, path, f"has {len(node.entries)} entries; at most {shape.max_length} may stand here")
        values: dict[str, Any] = {}
        for name, entry in node.entries.items():
            here = below(path, name)
            if shape.key.pattern and not re.fullmatch(shape.key.pattern, name):
                self._report.add(entry.at, here, f"{shown(name)} is no {shape.key.called}: {shape.key.words}")
                self._faulty.add(here)
                self._incomplete.add(path)
                continue
            value = self._read(entry.node, shape.item, here)
            values[name] = _neutral(shape.item) if value is _BAD else value
        return values

    def _many(self, node: Node, shape: Many, path: str) -> Any:
        if not isinstance(node, document.Sequence):
            hint = "put it in [ ]" if isinstance(node, Scalar) and not isinstance(shape.item, Group) else ""
            return self._wrong(node, path, f"expected a list, not {_kind(node)}", hint)
        if len(node.items) < shape.min_length:
            return self._wrong(node, path, "the list is empty" if not node.items else f"needs at least {shape.min_length} entries")
        if shape.max_length is not None and len(node.items) > shape.max_length:
            return self._wrong(node, path, f"has {len(node.items)} entries; at most {shape.max_length} may stand here")
        read = [self._read(item, shape.item, f"{path}[{index}]") for index, item in enumerate(node.items)]
        return tuple(_neutral(shape.item) if value is _BAD else value for value in read)

    def _either(self, node: Node, shape: Either, path: str) -> Any:
        """Told apart by what stands there: a mapping is the other, a listed word is the word."""
        word, other = shape.word, shape.other
        if isinstance(other, Group):
            if isinstance(node, document.Mapping):
                return self._group(node, other, path)
            if isinstance(node, Scalar) and isinstance(word, Leaf):
                return self._leaf(node, word, path)
        elif isinstance(node, Scalar) and units.duration(node.text) is not None:
            return self._leaf(node, other, path)
        if isinstance(node, Scalar) and isinstance(word, Choice):
            if node.value in word.values:
                return node.value
            hint = nearest(node.text, map(str, word.values)) if isinstance(node.value, str) else ""
            return self._wrong(node, path, f"expected {_expected(shape)}, not {shown(node.value)}", hint)
        return self._wrong(node, path, f"expected {_expected(shape)}, not {_kind(node)}")

    def _choice(self, node: Scalar, shape: Choice, path: str) -> Any:
        for value in shape.values:
            if value == node.value and type(value) is type(node.value):  # 1.0 and true are not 1
                return value
        choices = ", ".join(map(str, shape.values)) if len(shape.values) > 1 else str(shape.values[0])
        one_of = "one of " if len(shape.values) > 1 else ""
        if node.text in shape.values:
            return self._wrong(node, path, f"expected text, not {_kind(node)}", f"write {shown(node.text)}")
        hint = nearest(node.text, map(str, shape.values)) if isinstance(node.value, str) else ""
        return self._wrong(node, path, f"expected {one_of}{choices}, not {shown(node.value)}", hint)

    def _leaf(self, node: Scalar, shape: Leaf, path: str) -> Any:
        if shape.unit == "secret":
            return self._secret(node, path)
        if shape.unit == "duration":
            value: Any = self._unit(node, path, units.duration, "a duration such as 400ms, 5s, 10m, 72h or 7d", "s")
        elif shape.unit == "size":
            value = self._unit(node, path, units.size, "a size such as 64KB, 32MiB or 5GiB", "B")
        elif shape.type is bool:
            value = self._flag(node, path)
        elif shape.type is str:
            value = self._text(node, path)
            if shape.unit == "file" and value is not _BAD and len(value) <= (shape.max_length or len(value)):
                value = self._file(node, value, path)
        else:
            value = self._number(node, shape, path)
        return value if value is _BAD else self._within(node, shape, path, value)

    def _secret(self, node: Scalar, path: str) -> Any:
        try:
            return self._references.resolve(node.text)
        except ValueError as error:
            hint = "write ${env:NAME} or ${file:PATH}" if "by reference" in str(error) else ""
            return self._wrong(node, path, str(error), hint)

    def _file(self, node: Scalar, name: str, path: str) -> Any:
        """The name itself; what it holds is kept with the policy."""
        try:
            self._references.content(name)
        except ValueError as error:
            return self._wrong(node, path, str(error), "paths are relative to the policy file")
        return name

    def _unit(self, node: Scalar, path: str, parse: Callable[[str], _T | None], expected: str, base: str) -> _T | _Bad:
        value = parse(node.text)
        if value is not None:
            return value
        number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
        return self._wrong(
            node, path, f"expected {expected}, not {shown(node.value)}", f"with its unit: {node.text}{base}" if number else ""
        )

    def _flag(self, node: Scalar, path: str) -> Any:
        if isinstance(node.value, bool):
            return node.value
        meant = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(node.text.lower())
        if meant is None and node.text.lower() in ("true", "false"):
            meant = node.text.lower()
        hint = f"did you mean {meant}?" if meant else ""
        return self._wrong(node, path, f"expected true or false, not {shown(node.value)}", hint)

    def _text(self, node: Scalar, path: str) -> Any:
        if not isinstance(node.value, str):
            return self._wrong(node, path, f"expected text, not {_kind(node)}", f"write {shown(node.text)}")
        if _LOOKS_LIKE_REFERENCE.search(node.value):
            return self._wrong(node, path, "references are for secrets only, not for this key", "write the value itself")
        return node.value

    def _number(self, node: Scalar, shape: Leaf, path: str) -> Any:
        value = node.value
        if isinstance(value, str) and node.plain and re.fullmatch(units.GROUPED, value) and len(value) <= document.DIGITS_MAX:
            value = int(value.replace("_", ""))
        expected = "a percentage from 0 to 100" if shape.unit == "percent" else "a whole number" if shape.type is int else "a number"
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            bare = node.text.rstrip("%").strip()
            number = isinstance(value, str) and isinstance(document.resolve(bare), int | float)
            return self._wrong(node, path, f"expected {expected}, not {shown(node.value)}", f"write {bare}" if number else "")
        if shape.type is int and not isinstance(value, int):
            return self._wrong(node, path, f"expected a whole number, not {shown(value)}")
        return float(value) if shape.type is float else value

    def _within(self, node: Scalar, shape: Leaf, path: str, value: Any) -> Any:
        if isinstance(value, str):
            if shape.pattern and not re.fullmatch(shape.pattern, value):
                return self._wrong(node, path, f"{shown(value)} is no {shape.called}: {shape.words}")
            if len(value) < (shape.min_length or 0):
                return self._wrong(node, path, "may not be empty")
            if shape.max_length is not None and len(value) > shape.max_length:
                return self._wrong(node, path, f"has {len(value)} characters; at most {shape.max_length} may stand here")
            return value

        def show(limit: float) -> str:
            return (
                units.show_duration(limit)
                if shape.unit == "duration"
                else units.show_size(int(limit))
                if shape.unit == "size"
                else f"{limit:g}"
            )

        if shape.ge is not None and value < shape.ge:
            return self._wrong(node, path, f"must be at least {show(shape.ge)}, not {node.text}")
        if shape.gt is not None and value <= shape.gt:
            return self._wrong(node, path, f"must be more than {show(shape.gt)}, not {node.text}")
        if shape.le is not None and value > shape.le:
            return self._wrong(node, path, f"must be at most {show(shape.le)}, not {node.text}")
        if shape.lt is not None and value >= shape.lt:
            return self._wrong(node, path, f"must be less than {show(shape.lt)}, not {node.text}")
        return value


def _called_here(name: str, shape: Group) -> str:
    """`here it is "replicas", a list` for a word of other gateways."""
    meant = next((field for field in shape.fields if field.name in words_here(name)), None)
    return f'here it is "{meant.name}", {_expected(meant.shape)}' if meant else ""


def _neutral(shape: Shape) -> Any:
    """Stands in for a value that could not be read, so that the rest can be judged."""
    if isinstance(shape, Either):
        return _neutral(shape.word)
    if isinstance(shape, Again):
        return shape.cls()
    if isinstance(shape, Group):
        required: list[Field] = [field for field in shape.fields if field.required]
        return shape.cls(**{field.attribute: _neutral(field.shape) for field in required})
    if isinstance(shape, Table):
        return {}
    if isinstance(shape, Many):
        return ()
    return shape.values[0] if isinstance(shape, Choice) else shape.type()


def _expected(shape: Shape) -> str:
    if isinstance(shape, Either):
        word = ", ".join(map(str, shape.word.values)) if isinstance(shape.word, Choice) else f"a {shape.word.called}"
        return f"{word} or {_expected(shape.other)}"
    if isinstance(shape, Group | Table | Again):
        return "a mapping"
    if isinstance(shape, Many):
        return "a list"
    if isinstance(shape, Choice):
        return f"one of {', '.join(map(str, shape.values))}"
    names = {"duration": "a duration", "size": "a size", "percent": "a percentage", "secret": "a reference", "file": "the name of a file"}
    return names.get(shape.unit or "") or {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[shape.type]


def _kind(node: Node) -> str:
    """What a node is, never what it holds: it may be a secret in the wrong place."""
    if isinstance(node, document.Mapping):
        return "a mapping"
    if isinstance(node, document.Sequence):
        return "a list"
    if isinstance(node.value, bool):
        return "true or false"
    return "text" if isinstance(node.value, str) else "nothing" if node.value is None else "a number"
