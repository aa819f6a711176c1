"""When two replies agree: what counts, what does not, and what cannot be told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.agreement import Said, agree, label
from policies.plan import Agreement

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
WRITTEN = ["", "yes", "Yes.", " yes\n", '{"a": 1}', '{"a": true}', "```json\n{}\n```", "[1]", "null", "\n\n"]
TEXTS = st.sampled_from(WRITTEN) | st.text(max_size=9)
ARGUMENTS = st.sampled_from(["", "{}", '{"a":1}', '{"a": 1.0}', "{"])
TOOLS = st.lists(st.tuples(st.sampled_from(["find", "send"]), ARGUMENTS), max_size=2).map(tuple)
SAID = st.builds(Said, TEXTS, TOOLS)
HOW: tuple[Agreement, ...] = ("exact", "label", "json_fields")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("refund", "refund", True),
        ("refund\n", "\n refund", True),
        ("refund", "Refund", False),
        ("two  words", "two words", False),
        ("", "", True),
        ("", "refund", False),
    ],
)
def test_exact_is_the_same_text_but_for_white_space_around_it(one: str, other: str, expected: bool) -> None:
    assert agree("exact", Said(one), Said(other)) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("refund", "refund"),
        (" **Refund** ", "refund"),
        ('"Lost   card."\n\nbecause the card is lost', "lost card"),
        ("\n\n- \nrefund", "-"),
        ("...\n(refund)!", "refund"),
        ("C++", "c++"),
        ("-1", "-1"),
        ("STRASSE", "strasse"),
        ("straße", "strasse"),
        ("“Ärger”", "ärger"),
        ("", None),
        (" \n ", None),
        ('""', None),
    ],
)
def test_a_label_is_the_first_line_without_case_and_marks(text: str, expected: str | None) -> None:
    assert label(text) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("refund", "Refund.\nThe customer wants money back.", True),
        ("refund", "refund or exchange", False),
        ("refund", "", False),
        ("1", "-1", False),
        ("", "...", None),
    ],
)
def test_labels_agree_or_cannot_be_told(one: str, other: str, expected: bool | None) -> None:
    assert agree("label", Said(one), Said(other)) is expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ('{"a": 1, "b": [1, {"c": null}]}', '```json\n{"b":[1.0,{"c":null}],"a":1}\n```', True),
        ('{"a": 1}', '{"a": 1, "b": 2}', False),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', False),
        ('{"a": true}', '{"a": 1}', False),
        ('{"a": null}', '{"a": false}', False),
        ('{"a": "x"}', '{"a": "X"}', False),
        ('{"a": 1}', "a is 1", False),
        ("a is 1", '{"a": 1}', False),
        ("[1]", "[1]", None),
        ("yes", "yes", None),
        ("[" * 5_000, "{" * 5_000, None),
    ],
)
def test_json_fields_are_the_same_names_and_values(one: str, other: str, expected: bool | None) -> None:
    assert agree("json_fields", Said(one), Said(other)) is expected


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((("find", '{"id": 7}'),), (("find", '{"id":7.0}'),), True),
        ((("find", "{"),), (("find", "{"),), True),
        ((("find", "{"),), (("find", "{}"),), False),
        ((("find", '{"id": 7}'),), (("find", '{"id": 8}'),), False),
        ((("find", "{}"),), (("send", "{}"),), False),
        ((("find", "{}"), ("send", "{}")), (("send", "{}"), ("find", "{}")), False),
        ((("find", "{}"),), (), False),
    ],
)
def test_tool_calls_must_be_the_same(how: Agreement, one: Any, other: Any, expected: bool) -> None:
    assert agree(how, Said("", one), Said("", other)) is expected


def test_beside_tool_calls_the_text_counts_only_where_it_must_be_the_same() -> None:
    tools = (("find", "{}"),)
    found = {how: agree(how, Said("I will look.", tools), Said("", tools)) for how in HOW}
    assert found == {"exact": False, "label": True, "json_fields": True}


def test_a_judge_is_no_function_of_two_texts() -> None:
    with pytest.raises(ValueError, match="not supported yet"):
        agree("judge", Said("a"), Said("a"))


@given(st.sampled_from(HOW), SAID, SAID)
def test_agreement_is_symmetric_and_nobody_disagrees_with_himself(how: Agreement, one: Said, other: Said) -> None:
    assert agree(how, one, other) == agree(how, other, one)
    assert agree(how, one, one) is not False


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4), st.booleans(), st.randoms(use_true_random=False))
def test_how_an_object_is_written_changes_nothing(value: dict[str, Any], ascii_only: bool, random: Any) -> None:
    names = list(value)
    random.shuffle(names)
    again = json.dumps({name: value[name] for name in names}, ensure_ascii=ascii_only, indent=2)
    assert agree("json_fields", Said(json.dumps(value)), Said(again)) is True
