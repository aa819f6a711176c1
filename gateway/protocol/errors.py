"""Errors on the wire: ours as each endpoint's clients expect them, and the message in a backend's."""

from __future__ import annotations

from typing import Any

import msgspec

from policies.plan import Endpoint

NAME_CHARS_MAX = 100
"""Of a backend's `param` and `code`."""
MESSAGE_CHARS_MAX = 1000
"""Of a backend's error message, as it is shown and recorded."""

_ANY = msgspec.json.Decoder(Any)
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def kind_of(status: int) -> str:
    """The error type of an HTTP status, 400-599."""
    return _KINDS.get(status) or ("server_error" if status >= 500 else "invalid_request_error")


def error_body(
    endpoint: Endpoint | None, status: int, kind: str | None, message: str, param: str | None = None, code: str | None = None
) -> bytes:
    """The body of an error response, in OpenAI's shape; for messages it is at once Anthropic's, whose words for the kinds it takes.
    `endpoint` None: no matter which. `kind` None: the one of the status."""
    kind = kind or kind_of(status)
    if endpoint == "messages":
        return msgspec.json.encode({"type": "error", "error": _error(_kind_of_messages(kind), message, param, code)})
    return msgspec.json.encode({"error": _error(kind, message, param, code)})


def error_event(endpoint: Endpoint, kind: str, message: str, code: str | None = None) -> bytes:
    """What ends a stream that has failed after it began."""
    if endpoint == "responses":
        return _event({"type": "error", "code": code or kind, "message": message, "param": None, "sequence_number": 0})
    if endpoint == "messages":
        return _event({"type": "error", "error": {"type": _kind_of_messages(kind), "message": message}})
    return b'data: {"error":%b}\n\ndata: [DONE]\n\n' % msgspec.json.encode(_error(kind, message, None, code))


def _kind_of_messages(kind: str) -> str:
    """What Anthropic calls it. Source: its API reference, Errors."""
    return "api_error" if kind == "server_error" else kind


def _error(kind: str, message: str, param: str | None, code: str | None) -> dict[str, str | None]:
    return {"message": message, "type": kind, "param": param, "code": code}


def _event(data: dict[str, Any]) -> bytes:
    return b"event: error\ndata: %b\n\n" % msgspec.json.encode(data)


def read_error(body: bytes) -> str:
    """The message in a backend's error body: OpenAI's shape, Ollama's `{"error": "text"}`, FastAPI's `detail`, else its first
    line of text; "" where there is none."""
    try:
        found = _ANY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    message = error_message(found)
    if not message:
        text = body[: 4 * MESSAGE_CHARS_MAX].decode(errors="replace").strip()
        message = text.splitlines()[0] if text else ""
    return message[:MESSAGE_CHARS_MAX]


def read_error_names(body: bytes) -> tuple[str | None, str | None]:
    """`param` and `code` of a backend's error body, where it gives them as text."""
    try:
        found = _ANY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, None
    error = found.get("error") if isinstance(found, dict) else None
    if not isinstance(error, dict):
        return None, None
    param, code = error.get("param"), error.get("code")
    return (
        param[:NAME_CHARS_MAX] if isinstance(param, str) else None,
        code[:NAME_CHARS_MAX] if isinstance(code, str) else None,
    )


def error_message(error: Any) -> str:
    """The message in a decoded error object or text, as a stream or a body has it; "" where there is none."""
    for _ in range(4):  # an error in an error, a list of details: never deeper
        if isinstance(error, str):
            break
        if isinstance(error, list):
            error = error[0] if error else None
        elif isinstance(error, dict):
            error = next((error[name] for name in ("error", "message", "detail", "msg") if error.get(name)), None)
    return error[:MESSAGE_CHARS_MAX] if isinstance(error, str) else ""
