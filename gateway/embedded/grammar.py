"""Constrained decoding: a JSON schema becomes a grammar over bytes, and a grammar says which tokens may come next.

A grammar is matched as a set of stacks: what may still have to come, the next thing on top. Free text and lists are bounded, and so is
nesting, so that whatever the model prefers, the text it writes ends and is valid. The bounds are `STRING_CHARS_MAX` and its neighbours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

STRING_CHARS_MAX = 48
"""Characters of a string whose schema names no `maxLength`."""
ITEMS_MAX = 4
"""Items of a list without `maxItems`, and members of an object without `properties`."""
INTEGER_DIGITS_MAX = 6
LITERALS_MAX = 1000
"""Integers written out one by one where a schema bounds them."""
DEPTH_MAX = 8

REFUSED = frozenset((
    "pattern", "not", "if", "then", "else", "patternProperties", "propertyNames", "contains", "uniqueItems", "dependentRequired",
    "dependentSchemas", "minProperties", "unevaluatedProperties", "unevaluatedItems", "prefixItems",
))  # fmt: skip


class UnsupportedSchemaError(ValueError):
    """The schema says something that this grammar cannot promise."""


class _TooDeepError(UnsupportedSchemaError):
    """A schema that contains itself was followed to the deepest level."""


@dataclass(frozen=True, eq=False)
class OneByte:
    """Any one of these bytes."""

    among: frozenset[int]


@dataclass(frozen=True, eq=False)
class Either:
    """One of these."""

    options: tuple[Grammar, ...]


@dataclass(frozen=True, eq=False)
class Row:
    """These, one after the other."""

    items: tuple[Grammar, ...]


@dataclass(frozen=True, eq=False)
class Repeat:
    """The item again and again, `least` to `most` times."""

    item: Grammar
    least: int
    most: int

    @cached_property
    def less(self) -> Repeat:
        """The same once the item was there one time more. Always the same object, so that equal stacks are equal."""
        return Repeat(self.item, max(self.least - 1, 0), self.most - 1)


Grammar: TypeAlias = OneByte | Either | Row | Repeat
Stack: TypeAlias = "tuple[Grammar, Stack] | None"
State: TypeAlias = frozenset[Stack]
"""Every stack that what was written so far may have left; None is the end. Parts of a grammar are compared by identity."""


def row(*items: Grammar) -> Grammar:
    """Return a grammar of these in a row."""
    return Row(items)


def text(said: str) -> Grammar:
    """Return a grammar of exactly this text."""
    return Row(tuple(OneByte(frozenset((byte,))) for byte in said.encode()))


def start(grammar: Grammar) -> State:
    """Return the state before anything was written."""
    return frozenset(_opened((grammar, None)))


def advance(state: State, byte: int) -> State:
    """Return the state after one more byte; empty if it is not allowed."""
    reached: set[Stack] = set()
    for stack in state:
        if stack is not None and isinstance(stack[0], OneByte) and byte in stack[0].among:
            reached.update(_opened(stack[1]))
    return frozenset(reached)


def _opened(stack: Stack) -> Iterator[Stack]:
    """Yield the stacks that this one comes to: empty, or with a byte on top."""
    if stack is None or isinstance(stack[0], OneByte):
        yield stack
        return
    head, rest = stack
    if isinstance(head, Either):
        for option in head.options:
            yield from _opened((option, rest))
    elif isinstance(head, Row):
        for item in reversed(head.items):
            rest = (item, rest)
        yield from _opened(rest)
    elif isinstance(head, Repeat):
        if head.most > 0:
            yield from _opened((head.item, (head.less, rest)))
        if head.least == 0:
            yield from _opened(rest)


def _between(low: int, high: int) -> OneByte:
    return OneByte(frozenset(range(low, high + 1)))


def _byte(value: int) -> OneByte:
    return _between(value, value)


_TAIL = _between(0x80, 0xBF)
_CHARACTER = Either((
    OneByte(frozenset(range(0x20, 0x7F)) - frozenset(b'"\\')),
    row(_between(0xC2, 0xDF), _TAIL),
    row(_byte(0xE0), _between(0xA0, 0xBF), _TAIL),
    row(_between(0xE1, 0xEC), _TAIL, _TAIL),
    row(_byte(0xED), _between(0x80, 0x9F), _TAIL),
    row(_between(0xEE, 0xEF), _TAIL, _TAIL),
    row(_byte(0xF0), _between(0x90, 0xBF), _TAIL, _TAIL),
    row(_between(0xF1, 0xF3), _TAIL, _TAIL, _TAIL),
    row(_byte(0xF4), _between(0x80, 0x8F), _TAIL, _TAIL),
))  # fmt: skip
"""One character of a JSON string that needs no escape, as well-formed UTF-8."""
_DIGIT = _between(0x30, 0x39)
_POSITIVE = Either((text("0"), row(_between(0x31, 0x39), Repeat(_DIGIT, 0, INTEGER_DIGITS_MAX - 1))))
_INTEGER = row(Repeat(text("-"), 0, 1), _POSITIVE)
_NUMBER = row(_INTEGER, Repeat(row(text("."), Repeat(_DIGIT, 1, 3)), 0, 1))


def _string(least: int = 0, most: int = STRING_CHARS_MAX) -> Grammar:
    return row(text('"'), Repeat(_CHARACTER, least, most), text('"'))


def _listed(item: Grammar, least: int, most: int) -> Grammar:
    """Return `least` to `most` items with commas between them."""
    if most <= 0:
        return text("")
    some = row(item, Repeat(row(text(","), item), max(least - 1, 0), most - 1))
    return some if least > 0 else Either((some, text("")))


_SCALAR = Either((_string(), _NUMBER, text("true"), text("false"), text("null")))
ANY_OBJECT = row(text("{"), _listed(row(_string(1, 16), text(":"), _SCALAR), 0, ITEMS_MAX), text("}"))
"""What `response_format: json_object` asks for: a flat object."""


def of_schema(schema: Mapping[str, Any]) -> Grammar:
    """Return a grammar whose every text is valid under the JSON schema, written without spaces.

    Raises UnsupportedSchemaError for keywords whose promise it could not keep, and for wrong or endless schemas.
    """
    try:
        return _value(schema, schema, 0)
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        if isinstance(error, UnsupportedSchemaError):
            raise
        raise UnsupportedSchemaError(f"not a JSON schema: {error}") from error


def _value(schema: Any, root: Mapping[str, Any], depth: int) -> Grammar:
    if depth > DEPTH_MAX:
        raise _TooDeepError(f"nested more than {DEPTH_MAX} deep")
    if schema is True or schema == {}:
        return _SCALAR
    if not isinstance(schema, Mapping):
        raise UnsupportedSchemaError("a schema must be an object")
    for keyword in schema:
        if keyword in REFUSED and schema[keyword] is not False:
            raise UnsupportedSchemaError(f"the keyword {keyword!r} is not supported")
    if "$ref" in schema:
        return _value(_referred(schema["$ref"], root), root, depth + 1)
    if "const" in schema:
        return _literals([schema["const"]])
    if "enum" in schema:
        return _literals(schema["enum"])
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in schema:
            if keyword == "allOf" and len(schema[keyword]) > 1:
                raise UnsupportedSchemaError("'allOf' of more than one schema is not supported")
            return _any_of(schema[keyword], root, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else None)
    if isinstance(kind, list):
        return _any_of([{**schema, "type": one} for one in kind], root, depth)
    return _typed(kind, schema, root, depth)


def _typed(kind: Any, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Grammar:
    match kind:
        case None:
            return _SCALAR
        case "string":
            least = int(schema.get("minLength", 0))
            return _string(least, int(schema.get("maxLength", max(least, STRING_CHARS_MAX))))
        case "integer" | "number":
            return _bounded(schema) or (_INTEGER if kind == "integer" else _NUMBER)
        case "boolean":
            return Either((text("true"), text("false")))
        case "null":
            return text("null")
        case "array":
            return _array(schema, root, depth)
        case "object":
            return _object(schema, root, depth)
    raise UnsupportedSchemaError(f"unknown type {kind!r}")


def _any_of(options: Sequence[Any], root: Mapping[str, Any], depth: int) -> Grammar:
    """Return the options that can be written; one that goes on for ever is left out while another is there."""
    found: list[Grammar] = []
    deep: _TooDeepError | None = None
    for option in options:
        try:
            found.append(_value(option, root, depth))
        except _TooDeepError as error:
            deep = error
    if not found:
        raise deep or UnsupportedSchemaError("no option to choose from")
    return Either(tuple(found))


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    if not reference.startswith("#"):
        raise UnsupportedSchemaError(f"only references inside the schema are followed, not {reference!r}")
    found: Any = root
    for part in reference[1:].split("/")[1:]:
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def _literals(values: Sequence[Any]) -> Grammar:
    if not values:
        raise UnsupportedSchemaError("nothing to choose from")
    return Either(tuple(text(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) for value in values))


def _bounded(schema: Mapping[str, Any]) -> Grammar | None:
    """Return the integers inside the schema's bounds, written out; None where there are no bounds."""
    keywords = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
    if not any(keyword in schema for keyword in keywords):
        return None
    lows = [math.ceil(schema["minimum"])] if "minimum" in schema else []
    lows += [math.floor(schema["exclusiveMinimum"]) + 1] if "exclusiveMinimum" in schema else []
    highs = [math.floor(schema["maximum"])] if "maximum" in schema else []
    highs += [math.ceil(schema["exclusiveMaximum"]) - 1] if "exclusiveMaximum" in schema else []
    step = schema.get("multipleOf", 1)
    if step != int(step) or step <= 0:
        raise UnsupportedSchemaError("'multipleOf' must be a positive integer")
    step = int(step)
    least = max(lows) if lows else min(0, *(high - LITERALS_MAX * step for high in highs)) if highs else 0
    first = -(-least // step) * step
    last = min([first + LITERALS_MAX * step, *highs])
    if first > last:
        raise UnsupportedSchemaError("no integer lies within the bounds")
    return _literals(list(range(first, last + 1, step)))


def _array(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Grammar:
    least = int(schema.get("minItems", 0))
    most = int(schema.get("maxItems", max(least, ITEMS_MAX)))
    try:
        item = _value(schema.get("items", True), root, depth + 1)
    except _TooDeepError:
        if least > 0:
            raise
        return text("[]")
    return row(text("["), _listed(item, least, most), text("]"))


def _object(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Grammar:
    properties, required = schema.get("properties", {}), schema.get("required", ())
    unknown = [name for name in required if name not in properties]
    if unknown:
        raise UnsupportedSchemaError(f"required but not among the properties: {unknown[0]!r}")
    members: list[tuple[Grammar, bool]] = []
    for name, inner in properties.items():
        try:
            members.append((row(text(json.dumps(name, ensure_ascii=False) + ":"), _value(inner, root, depth + 1)), name in required))
        except _TooDeepError:
            if name in required:
                raise
    # Written from the last member to the first: what may follow once some member stands before it, and while none does.
    after: Grammar = text("}")
    fresh: Grammar = text("}")
    for member, needed in reversed(members):
        here, first = row(text(","), member, after), row(member, after)
        fresh = first if needed else Either((first, fresh))
        after = here if needed else Either((here, after))
    return row(text("{"), fresh)
