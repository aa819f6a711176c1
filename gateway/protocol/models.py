"""`/v1/models` and `/v1/models/{id}`: the names that a client may ask for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec


def render_models(names: Iterable[str], created: int = 0) -> bytes:
    """The list. `created`: Unix time at which the policy that names them was loaded."""
    return msgspec.json.encode({"object": "list", "data": [_model(name, created) for name in names]})


def render_model(name: str, created: int = 0) -> bytes:
    """One of them."""
    return msgspec.json.encode(_model(name, created))


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "headgate"}
