"""The JSON Schema of the policy file, for editors: completion, and the plain mistakes while typing."""

from __future__ import annotations

from typing import Any

from policies import units
from policies.fields import Again, Choice, Either, Field, Group, Leaf, Many, Shape, Table, in_file, policy_shape
from policies.references import REFERENCE

_PATTERNS = {"duration": units.DURATION, "size": units.SIZE, "secret": REFERENCE}
_TYPES: dict[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def json_schema() -> dict[str, Any]:
    """Draft 2020-12. What it cannot say (names that dangle, and the like) `headgate check` says."""
    definitions: dict[str, Any] = {}
    root = _group(policy_shape(), definitions)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Headgate policy", **root, "$defs": definitions}


def _group(shape: Group, definitions: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": shape.description,
        "properties": {field.name: _field(field, definitions) for field in shape.fields},
        "required": [field.name for field in shape.fields if field.required],
        "additionalProperties": False,
    }


def _field(field: Field, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = _schema(field.shape, definitions)
    if field.description:
        schema["description"] = field.description
    if field.example is not None:
        schema["examples"] = [field.example]
    if not field.required and field.default is not None and not isinstance(field.shape, Group):
        schema["default"] = in_file(field.default, field.shape)
    return schema


def _schema(shape: Shape, definitions: dict[str, Any]) -> dict[str, Any]:
    if isinstance(shape, Group):
        if shape.cls.__name__ not in definitions:
            definitions[shape.cls.__name__] = {}
            definitions[shape.cls.__name__] = _group(shape, definitions)
        return {"$ref": f"#/$defs/{shape.cls.__name__}"}
    if isinstance(shape, Again):
        return {"$ref": f"#/$defs/{shape.cls.__name__}"}
    if isinstance(shape, Either):
        return {"anyOf": [_schema(shape.word, definitions), _schema(shape.other, definitions)]}
    if isinstance(shape, Choice):
        return {"enum": list(shape.values)}
    if isinstance(shape, Many):
        return _without_none(
            type="array", items=_schema(shape.item, definitions), minItems=shape.min_length or None, maxItems=shape.max_length
        )
    if isinstance(shape, Table):
        keys = {"pattern": shape.key.pattern} if shape.key.pattern else None
        item = _schema(shape.item, definitions)
        return _without_none(type="object", additionalProperties=item, propertyNames=keys, maxProperties=shape.max_length)
    return _leaf(shape)


def _leaf(shape: Leaf) -> dict[str, Any]:
    if shape.unit in _PATTERNS:
        return {"type": "string", "pattern": _PATTERNS[shape.unit]}
    number = _without_none(
        type=_TYPES[shape.type],
        minimum=shape.ge,
        exclusiveMinimum=shape.gt,
        maximum=shape.le,
        exclusiveMaximum=shape.lt,
        minLength=shape.min_length,
        maxLength=shape.max_length,
        pattern=shape.pattern,
    )
    if shape.type in (int, float):
        # A YAML 1.2 editor reads 1_000_000 as text.
        return {"anyOf": [number, {"type": "string", "pattern": units.GROUPED}]}
    return number


def _without_none(**keywords: Any) -> dict[str, Any]:
    return {name: value for name, value in keywords.items() if value is not None}
