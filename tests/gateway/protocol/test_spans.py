"""Where the parts of a JSON text lie."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.spans import RepeatedNameError, fields, items, numbers_only, spliced

names = st.text(max_size=4) | st.sampled_from(['"', "\\", "{"])
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(names, values, max_size=5),
    st.sampled_from([None, 1, 2]),
    st.booleans(),
)
def test_fields_are_where_they_are_said_to_be(made: dict[str, Any], indent: int | None, plain: bool) -> None:
    data = json.dumps(made, indent=indent, ensure_ascii=plain).encode()
    found = fields(data, 0, len(data))
    assert {name: json.loads(data[start:end]) for name, _, start, end in found} == json.loads(data)
    assert all(data[named] == ord('"') for _, named, _, _ in found)


@given(st.lists(values, max_size=6), st.sampled_from([None, 1, 2]))
def test_items_are_where_they_are_said_to_be(made: list[Any], indent: int | None) -> None:
    data = b"  " + json.dumps(made, indent=indent).encode()
    assert [json.loads(data[start:end]) for start, end in items(data, 2, len(data))] == made


@pytest.mark.parametrize("data", [b'{"a":1,"a":1}', b'{"a":1,"b":2,"a":3}', b'{"a":1,"\\u0061":2}', b'{"a":12,"a":1}'])
def test_a_name_that_is_repeated_is_said(data: bytes) -> None:
    with pytest.raises(RepeatedNameError, match="a"):
        fields(data, 0, len(data))


def test_what_is_replaced_leaves_the_rest() -> None:
    assert b"".join(spliced(b"0123456789", [(8, 9, b"x"), (2, 4, b""), (4, 4, b"y")])) == b"01y4567x9"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b'{"a":NaN,"b":-NaN}', {"a": " ", "b": "  "}),
        (b'{"a":-Infinity,"b":[Infinity]}', {"a": -99999999, "b": ["      "]}),
        (b'{"NaN":"NaN \\"Infinity","b":1}', {"NaN": 'NaN "Infinity', "b": 1}),
        (b'{"a":1}', {"a": 1}),
    ],
)
def test_what_is_no_number_gives_way_to_what_is_json(written: bytes, read: Any) -> None:
    found = numbers_only(written)
    assert len(found) == len(written)
    assert msgspec.json.decode(found) == read
