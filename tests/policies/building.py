"""Policies as plain values, to be varied by a test and written as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from policies.compile import compile_policy, decode, encode
from policies.load import Loaded
from policies.plan import Features
from policies.snapshot import Decision, NoRoute, Snapshot
from tests.policies.golden import FILES, load_text

ACME, GLOBEX = "${file:keys/acme.sha256}", "${env:GLOBEX_SHA256}"
ACME_DIGEST = sha256(b"acme's key").digest()
GLOBEX_DIGEST = sha256(b"globex' key").digest()


def backend(name: str = "small", **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "vllm", "replicas": [f"http://{name}:8000"], "model": f"{name}-model"} | more


def route(name: str = "chat", **more: Any) -> dict[str, Any]:
    answerer = {} if {"failover", "cascade"} & more.keys() else {"backend": "small"}
    return {"name": name, "matches": [{"models": [name]}]} | answerer | more


def policy(**more: Any) -> dict[str, Any]:
    return {"version": 1, "backends": [backend("small"), backend("big"), backend("huge")], "routes": [route()]} | more


def loaded(values: dict[str, Any], files: Mapping[str, bytes] = FILES) -> Loaded:
    """JSON is YAML."""
    return load_text(json.dumps(values, ensure_ascii=False), files)


def snapshot(values: dict[str, Any], files: Mapping[str, bytes] = FILES) -> Snapshot:
    found = loaded(values, files)
    return compile_policy(decode(encode(found.policy)), found.version, found.files)


def decide(values: dict[str, Any], model: str = "chat", **features: Any) -> Decision | NoRoute:
    return snapshot(values).decide(Features("x-1", "chat", model, **features))


def decided(values: dict[str, Any], model: str = "chat", **features: Any) -> Decision:
    decision = decide(values, model, **features)
    assert isinstance(decision, Decision), decision
    return decision


def route_of(values: dict[str, Any], model: str = "chat", **features: Any) -> str:
    """The name of the route that takes the request, or why none does."""
    decision = decide(values, model, **features)
    return decision.route.name if isinstance(decision, Decision) else decision.why
