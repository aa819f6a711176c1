"""The guard text of a large body is that of the body decoded whole."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocol import turns
from gateway.protocol.turns import OBJECTS_MAX, WHOLE_BYTES_MAX, said_turns
from policies.ood.text import TEXT_KINDS, guard_text, request_turns

SIGNS = ["a", " ", "\n", '"', "\\", "é", "→", "支", "😀", "{", "\x00", "u", "\t"]


def texts(body: dict[str, Any]) -> list[str | None]:
    return [guard_text(request_turns(body), kind) for kind in TEXT_KINDS]


def read(body: dict[str, Any], *, ascii_only: bool = False) -> list[str | None]:
    said = {name: json.dumps(value, ensure_ascii=ascii_only).encode() for name, value in body.items()}
    return [guard_text(said_turns(said), kind) for kind in TEXT_KINDS]


def long_text(seed: int, signs: list[str], count: int) -> str:
    return "".join(random.Random(seed).choices(signs, k=count))


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("name", ["messages", "prompt", "input"])
def test_the_two_ends_of_an_enormous_text(name: str, ascii_only: bool) -> None:
    for seed, signs in enumerate([SIGNS, ["支", "文"], ["😀"], ["a"], ["\\", "a"], ['"'], ["\n", "é"]]):
        text = long_text(seed, signs, 150_000)
        for value in (text, [{"role": "user", "content": text}], [{"role": "user", "content": [{"type": "text", "text": text}]}]):
            assert read({name: value}, ascii_only=ascii_only) == texts({name: value}), signs


def test_an_image_between_texts_is_passed_over() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * WHOLE_BYTES_MAX}}
    body = {"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": [{"type": "text", "text": "hi"}, image]}]}
    assert read(body) == texts(body) == ["hi", "hi", "hi"]
    alone = {"messages": [{"role": "user", "content": [image]}]}
    assert read(alone) == [None, None, None]


def test_many_turns() -> None:
    body = {"messages": [{"role": ["user", "assistant", "tool"][n % 3], "content": f"turn {n} " + "x" * 90} for n in range(5_000)]}
    assert read(body) == texts(body)


def test_what_would_take_long_has_no_text() -> None:
    flood = [{"role": "user", "content": "hi"}] * (OBJECTS_MAX + 1)
    assert read({"messages": flood}) == [None, None, None]
    assert read({"prompt": list(range(WHOLE_BYTES_MAX))}) == [None, None, None]
    backslashes = b'[{"role":"user","content":"' + b"\\" * (2 * WHOLE_BYTES_MAX) + b'"}]'
    assert said_turns({"messages": backslashes}) == []
    assert said_turns({"messages": b"[" * 5_000}) == []


def test_a_field_that_is_null_is_not_there() -> None:
    assert said_turns({"messages": b"null", "prompt": b'"hello"'}) == request_turns({"messages": None, "prompt": "hello"})
    assert said_turns({}) == []


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["user", "assistant", "system", "tool"]),
            st.one_of(
                st.none(),
                st.text(st.sampled_from(SIGNS), max_size=300),
                st.lists(
                    st.fixed_dictionaries({"type": st.just("text"), "text": st.text(st.sampled_from(SIGNS), max_size=200)}), max_size=3
                ),
            ),
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_whatever_is_said_both_ways_give_the_same(said: list[tuple[str, Any]], ascii_only: bool) -> None:
    """With every limit so low that everything is large."""
    body = {"messages": [{"role": role, "content": content} for role, content in said]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "WHOLE_BYTES_MAX", 0)
        assert read(body, ascii_only=ascii_only) == texts(body)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from(SIGNS), min_size=1), st.integers(1, 40), st.booleans())
def test_cutting_a_text_never_cuts_a_character(piece: str, times: int, ascii_only: bool) -> None:
    text = piece * times
    literal = json.dumps(text, ensure_ascii=ascii_only).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "_END_BYTES", 40)
        try:
            found = turns._ends(literal)
        except msgspec.DecodeError:
            assert "\\" in text
            return
    assert found == text or (text.startswith(found[:3]) and text.endswith(found[-3:]))
