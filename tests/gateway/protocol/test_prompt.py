from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.protocol.body import Body, decode
from policies.plan import Endpoint


def body(endpoint: Endpoint, **fields: Any) -> Body:
    return decode(json.dumps({"model": "m", **fields}).encode(), endpoint)


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    ("endpoint", "fields", "chars"),
    [
        ("chat", {"messages": [{"role": "system", "content": "abc"}, user("dé😀")]}, 6),
        ("chat", {"messages": [user([{"type": "text", "text": "abc"}, {"type": "image_url", "image_url": {"url": "data:xx"}}])]}, 3),
        ("chat", {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}, user("ab")]}, 2),
        ("chat", {"messages": "not a list"}, 0),
        ("chat", {}, 0),
        ("completions", {"prompt": "abcd"}, 4),
        ("completions", {"prompt": ["ab", "c"]}, 3),
        ("completions", {"prompt": [1, 2, 3]}, 0),
        ("completions", {}, 0),
        ("embeddings", {"input": ["ab", "c"]}, 3),
        ("embeddings", {"input": "ab"}, 2),
        ("responses", {"instructions": "ab", "input": "cd"}, 4),
        ("responses", {"input": [{"type": "message", **user([{"type": "input_text", "text": "abc"}])}]}, 3),
        ("responses", {"input": None}, 0),
        ("messages", {"system": "ab", "messages": [user("cd")]}, 4),
        ("messages", {"system": [{"type": "text", "text": "abc"}], "messages": [user("d")]}, 4),
        ("messages", {"messages": [user([{"type": "tool_result", "content": [{"type": "text", "text": "abc"}]}])]}, 3),
        ("messages", {"messages": [user([{"type": "tool_result", "content": "ab"}])]}, 2),
    ],
)
def test_the_characters_of_a_prompt(endpoint: Endpoint, fields: dict[str, Any], chars: int) -> None:
    assert body(endpoint, **fields).prompt_chars() == chars


SYSTEM = {"role": "system", "content": "You route tickets."}
ANSWER = {"role": "assistant", "content": "billing"}


def test_a_conversation_keeps_its_affinity() -> None:
    first = body("chat", messages=[SYSTEM, user("charged twice")])
    later = body("chat", messages=[SYSTEM, user("charged twice"), ANSWER, user("and again")], temperature=0)
    assert first.affinity() == later.affinity()
    assert 0 <= first.affinity() < 2**64


def test_another_conversation_has_another() -> None:
    seen = {
        body("chat", messages=[SYSTEM, user("charged twice")]).affinity(),
        body("chat", messages=[SYSTEM, user("late parcel")]).affinity(),
        body("chat", messages=[{"role": "system", "content": "Other."}, user("late parcel")]).affinity(),
        body("chat", messages=[user("late"), ANSWER]).affinity(),
    }
    assert len(seen) == 4


def test_a_long_system_text_does_not_hide_the_user() -> None:
    system = {"role": "system", "content": "x" * 100_000}
    assert body("chat", messages=[system, user("a")]).affinity() != body("chat", messages=[system, user("b")]).affinity()


def test_where_the_system_text_stands_elsewhere() -> None:
    turn = body("messages", system="s", messages=[user("a")])
    assert turn.affinity() == body("messages", system=[{"type": "text", "text": "s"}], messages=[user("a"), ANSWER]).affinity()
    assert turn.affinity() != body("messages", system="t", messages=[user("a")]).affinity()
    assert body("responses", input="a").affinity() == body("responses", input=[user("a"), ANSWER, user("b")]).affinity()


def test_a_growing_prompt_keeps_its_beginning() -> None:
    prompt = "system and first turn " * 20
    assert body("completions", prompt=prompt).affinity() == body("completions", prompt=prompt + "more").affinity()


def test_the_affinity_is_the_same_in_every_process() -> None:
    assert body("chat", messages=[user("a")]).affinity() == 5607187266179385537  # blake2b of "a", frozen


def test_a_prompt_without_text_has_an_affinity_too() -> None:
    assert body("completions", prompt=[1, 2]).affinity() == body("completions", prompt=[3]).affinity()
