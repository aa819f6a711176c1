"""What a backend is asked for, and what of it is the client's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.body import decode
from gateway.protocol.stripping import NOTHING
from policies.plan import Endpoint, Evidence


def asks(endpoint: Endpoint, top: int, **fields: Any) -> tuple[dict[str, Any], int | None]:
    """What goes upstream beside the model, and what stays of what comes back."""
    body = decode(json.dumps({"model": "m", **fields}).encode(), endpoint)
    evidence = Evidence(top=top)
    sent = json.loads(b"".join(body.render("m", usage=False, evidence=evidence)))
    del sent["model"]
    return sent, body.keeps_logprobs(evidence)


@pytest.mark.parametrize(
    ("top", "fields", "sent", "keeps"),
    [
        (0, {}, {"logprobs": True}, NOTHING),
        (5, {}, {"logprobs": True, "top_logprobs": 5}, NOTHING),
        (5, {"logprobs": False}, {"logprobs": True, "top_logprobs": 5}, NOTHING),
        (5, {"logprobs": None, "top_logprobs": None}, {"logprobs": True, "top_logprobs": 5}, NOTHING),
        (0, {"logprobs": True}, {"logprobs": True}, None),
        (5, {"logprobs": True}, {"logprobs": True, "top_logprobs": 5}, 0),
        (5, {"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 5}, 2),
        (5, {"logprobs": True, "top_logprobs": 5}, {"logprobs": True, "top_logprobs": 5}, None),
        (5, {"logprobs": True, "top_logprobs": 9}, {"logprobs": True, "top_logprobs": 9}, None),
        (0, {"logprobs": True, "top_logprobs": 0}, {"logprobs": True, "top_logprobs": 1}, 0),
        (0, {"top_logprobs": 0}, {"logprobs": True, "top_logprobs": 1}, NOTHING),
        (5, {"logprobs": True, "top_logprobs": -1}, {"logprobs": True, "top_logprobs": -1}, None),
    ],
)
def test_chat(top: int, fields: dict[str, Any], sent: dict[str, Any], keeps: int | None) -> None:
    assert asks("chat", top, **fields) == (sent, keeps)


@pytest.mark.parametrize(
    ("top", "fields", "sent", "keeps"),
    [
        (0, {}, {"logprobs": 1}, NOTHING),
        (5, {}, {"logprobs": 5}, NOTHING),
        (5, {"logprobs": None}, {"logprobs": 5}, NOTHING),
        (5, {"logprobs": 2}, {"logprobs": 5}, 2),
        (5, {"logprobs": 7}, {"logprobs": 7}, None),
        (0, {"logprobs": 0}, {"logprobs": 1}, 0),
        (5, {"logprobs": -1}, {"logprobs": -1}, None),
    ],
)
def test_completions(top: int, fields: dict[str, Any], sent: dict[str, Any], keeps: int | None) -> None:
    assert asks("completions", top, **fields) == (sent, keeps)


@pytest.mark.parametrize("endpoint", ["responses", "messages", "embeddings"])
def test_endpoints_without_evidence_are_not_asked_for_any(endpoint: Endpoint) -> None:
    assert asks(endpoint, 5, top_logprobs=2) == ({"top_logprobs": 2}, None)


def test_what_is_asked_is_spliced_in_with_the_rest() -> None:
    raw = b'{ "model" : "m", "logprobs":false ,"x":1e3, "stream":true}'
    body = decode(raw, "chat")
    sent = b"".join(body.render("other", usage=True, evidence=Evidence(top=3)))
    assert sent == (
        b'{ "model" : "other", "logprobs":true ,"x":1e3, "stream":true,"stream_options":{"include_usage":true},"top_logprobs":3}'
    )


@given(
    st.sampled_from(["chat", "completions"]),
    st.integers(0, 20),
    st.none() | st.booleans(),
    st.none() | st.integers(-1, 20),
    st.booleans(),
)
def test_a_client_never_gets_less_than_it_asked_for(endpoint: Any, top: int, flag: bool | None, number: int | None, usage: bool) -> None:
    fields: dict[str, Any] = {"model": "m", "stream": usage, "x": [1.50, {"logprobs": 1}]}
    fields |= {"logprobs": flag, "top_logprobs": number} if endpoint == "chat" else {"logprobs": number}
    body = decode(json.dumps(fields).encode(), endpoint)
    sent = json.loads(b"".join(body.render("m", usage=False, evidence=Evidence(top=top))))
    asked = sent["top_logprobs" if endpoint == "chat" else "logprobs"] or 0
    assert asked == number if (number or 0) < 0 else asked >= max(number or 0, top)
    if endpoint == "chat":
        assert sent["logprobs"] is True
    assert {name: value for name, value in sent.items() if "logprobs" not in name} == {
        name: value for name, value in fields.items() if "logprobs" not in name
    }
