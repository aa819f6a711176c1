"""Constrained decoding: whatever is chosen among what is allowed, the text ends and is valid under its schema."""

import json
import random
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.embedded import grammar
from gateway.embedded.constraint import Vocabulary, Written
from gateway.embedded.engine import Library
from gateway.embedded.tokenizer import IM_END

TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["v", "next"],
        }
    },
    "$ref": "#/$defs/node",
}
SCHEMAS: list[dict[str, Any]] = [
    {"enum": ["billing", "shipping", 3, None]},
    {"const": {"a": [1, "é"]}},
    {"type": "string"},
    {"type": "string", "minLength": 3, "maxLength": 5},
    {"type": "integer"},
    {"type": "integer", "minimum": -3, "maximum": 12},
    {"type": "integer", "exclusiveMinimum": 5, "multipleOf": 4},
    {"type": "integer", "maximum": -7},
    {"type": "number"},
    {"type": "number", "exclusiveMaximum": 2.5, "minimum": 0.5},
    {"type": ["boolean", "null"]},
    {"type": "array", "items": {"type": "boolean"}},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
    {"type": "array", "items": {"type": "integer"}, "minItems": 6},
    {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}, "c": {"const": 1}}, "required": ["b"]},
    {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}}, "additionalProperties": False},
    {"type": "object", "properties": {}},
    {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "array", "items": {"enum": ["x"]}}]},
    {"type": "object", "properties": {"é\"'": {"type": "array", "items": {"const": 1}, "minItems": 1}}, "required": ["é\"'"]},
    TREE,
]  # fmt: skip


def written(wanted: grammar.Grammar, choose: random.Random) -> str:
    """Walk the grammar byte by byte, choosing at random among what is allowed, until it ends."""
    state, said = grammar.start(wanted), bytearray()
    while True:
        allowed = [byte for byte in range(256) if grammar.advance(state, byte)]
        if None in state and (not allowed or choose.random() < 0.3):
            return said.decode()
        assert allowed, f"a dead end after {bytes(said)!r}"
        byte = choose.choice(allowed)
        said.append(byte)
        state = grammar.advance(state, byte)


@pytest.mark.parametrize("schema", SCHEMAS, ids=[str(i) for i in range(len(SCHEMAS))])
def test_whatever_is_chosen_is_valid(schema: dict[str, Any]) -> None:
    wanted = grammar.of_schema(schema)
    said = {written(wanted, random.Random(seed)) for seed in range(40)}
    for text in said:
        jsonschema.validate(json.loads(text), schema)


scalars = st.sampled_from(
    [{"type": "boolean"}, {"type": "integer"}, {"type": "null"}, {"enum": ["a", 1]}, {"type": "string", "maxLength": 3}]
)


def objects(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    members = st.dictionaries(st.text(max_size=4), inner, max_size=3)
    return st.builds(
        lambda properties, needed: {
            "type": "object",
            "properties": properties,
            "required": [name for name in properties if name in needed],
        },
        members,
        st.sets(st.text(max_size=4)),
    )


schemas = st.recursive(
    scalars, lambda inner: st.one_of(objects(inner), st.builds(lambda i: {"type": "array", "items": i}, inner)), max_leaves=5
)


@settings(max_examples=60, deadline=None)
@given(schemas, st.integers(0, 1000))
def test_any_schema_any_choice(schema: dict[str, Any], seed: int) -> None:
    jsonschema.validate(json.loads(written(grammar.of_schema(schema), random.Random(seed))), schema)


def test_a_flat_object_is_what_json_object_means() -> None:
    for seed in range(20):
        assert isinstance(json.loads(written(grammar.ANY_OBJECT, random.Random(seed))), dict)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "string", "pattern": "a+"}, "pattern"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "thing"}, "unknown type"),
        ({"$ref": "https://example.com/x"}, "inside the schema"),
        ({"$ref": "#/$defs/nope"}, "not a JSON schema"),
        ({"$ref": "#"}, "deep"),
        ({"enum": []}, "nothing to choose"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "within the bounds"),
        ({"type": "object", "required": ["x"]}, "not among the properties"),
        ({"type": "integer", "minimum": "x"}, "not a JSON schema"),
        ({"allOf": [{}, {}]}, "allOf"),
    ],
)
def test_what_cannot_be_promised_is_refused(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(grammar.UnsupportedSchemaError, match=why):
        grammar.of_schema(schema)


def test_tokens_are_allowed_exactly_where_their_bytes_are(library: Library) -> None:
    state = grammar.start(grammar.of_schema({"enum": ["billing", "bill"]}))
    mask = library.vocabulary.allowed(state)
    allowed = {library.tokenizer.token_bytes[id_] for id_ in mask.nonzero()[0]}
    assert allowed == {token for token in library.tokenizer.token_bytes if token and b'"billing"'.startswith(token)}


def test_the_end_is_allowed_where_the_grammar_ends_and_nothing_after_it(library: Library) -> None:
    constraint = Written(grammar.text("ab"), library.tokenizer, Vocabulary(library.tokenizer))
    assert not constraint.allowed()[IM_END]
    for id_ in library.tokenizer.encode("ab"):
        constraint.wrote(id_)
    assert constraint.allowed().nonzero()[0].tolist() == [IM_END]
