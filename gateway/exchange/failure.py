"""What the client is told when no call succeeded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from gateway.errors import ApiError
from policies.plan import CallError, ErrorKind

RETRY_AFTER_S: Final = 1.0
"""Advice to a client that was turned away for want of room."""


def retry_lines(seconds: float) -> bytes:
    """`retry-after` (whole seconds, rounded up) and `retry-after-ms`, as header lines."""
    return b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (max(1, math.ceil(seconds)), max(1, round(seconds * 1000)))


NO_RETRY: Final = b"x-should-retry: false\r\n"
"""A retry would make a backend that is still at work do the same again."""


WORDS: Final[Mapping[ErrorKind, str]] = {
    "connect": "could not be reached",
    "timeout_connect": "could not be reached in time",
    "closed": "closed the connection before it answered",
    "truncated": "broke off in the middle of its answer",
    "queue_full": "has no room for another request",
}
"""What the client is told where the error's own message says more than it should know (addresses, limits); that one is in the
call's record."""
CREDENTIALS_REFUSED: Final = frozenset({401, 403, 407})
"""Statuses that are about the gateway's own key, which some backends quote."""


def api_error(error: CallError, backend: str, endpoint: str, *, headed: bool = True) -> ApiError:
    """The client's error for a call's. A backend's own 4xx about the request keeps its status; what is between the gateway
    and the backend (its credentials, its name for the model) is a 502, never the client's 401 or 404. `headed`: a status line
    had come.
    """
    message = f"backend {backend}{_words(error, headed=headed)}"
    match error.kind:
        case "status":
            return _status_error(error, message, endpoint)
        case "timeout_first_token" | "timeout_between_tokens" | "timeout_total":
            return ApiError(504, "server_error", message, code="backend_timeout", headers=NO_RETRY)
        case "deadline":
            return ApiError(504, "server_error", message, code="deadline_exceeded", headers=NO_RETRY)
        case "timeout_connect":
            return ApiError(504, "server_error", message, code="backend_timeout")
        case "unready" | "breaker_open":
            return ApiError(
                503, "server_error", message, code="backend_unavailable", headers=retry_lines(error.retry_after_s or RETRY_AFTER_S)
            )
        case "queue_full" | "queue_timeout":
            return ApiError(503, "server_error", message, code="overloaded", headers=retry_lines(error.retry_after_s or RETRY_AFTER_S))
        case _:
            return ApiError(502, "server_error", message, code="backend_error")


def _words(error: CallError, *, headed: bool) -> str:
    if error.kind == "protocol":
        return " gave an answer that is not one of the API" if headed else " did not answer in HTTP"
    if error.kind == "status" and error.status in CREDENTIALS_REFUSED:
        return f" refused the gateway's credentials ({error.status})"
    words = WORDS.get(error.kind)
    return f": {error.message}" if words is None else f" {words}"


def _status_error(error: CallError, message: str, endpoint: str) -> ApiError:
    status = error.status or 502
    if error.request_at_fault:
        return ApiError(status, "invalid_request_error", error.message, param=error.param, code=error.code)
    if status == 429:
        return ApiError(
            429, "rate_limit_error", message, code="backend_rate_limited", headers=retry_lines(error.retry_after_s or RETRY_AFTER_S)
        )
    if status == 503:
        return ApiError(503, "server_error", message, code="backend_unavailable", headers=retry_lines(error.retry_after_s or RETRY_AFTER_S))
    if status == 504:
        return ApiError(504, "server_error", message, code="backend_timeout", headers=NO_RETRY)
    if status == 404 and endpoint in ("embeddings", "responses", "messages", "completions"):
        # Chat is everywhere; a 404 elsewhere means that this engine does not offer the endpoint.
        return ApiError(404, "invalid_request_error", message, code="endpoint_not_offered")
    return ApiError(502, "server_error", message, code="backend_error")
