"""JSON answers of the admin API, and its errors in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from gateway.protocol.errors import error_body

_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def json_response(value: Any, status: int = 200) -> Response:
    """`value` as JSON; never cached."""
    return Response(msgspec.json.encode(value), status, _HEADERS, "application/json")


def error_response(status: int, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """An error of the kind that goes with `status`."""
    return Response(error_body(None, status, None, message, param), status, {**_HEADERS, **(headers or {})}, "application/json")
