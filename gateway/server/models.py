"""`/v1/models` and `/v1/models/{id}`: the names that a key may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from gateway.errors import ApiError
from gateway.protocol.models import render_model


def answer_model(quoted: bytes, names: Sequence[str]) -> bytes:
    """One model by its percent-encoded name; ApiError 404 where the key may not ask for it."""
    name = unquote_to_bytes(quoted).decode("utf-8", "replace")
    if name not in names:
        raise ApiError(
            404, "invalid_request_error", f"the model {name!r} does not exist; see /v1/models", param="model", code="model_not_found"
        )
    return render_model(name)
