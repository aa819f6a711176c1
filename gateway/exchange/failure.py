"""What the client is told when no call succeeded."""

from __future__ import annotations

import math

from gateway.errors import ApiError
from policies.plan import CallError

RETRY_AFTER_S = 1.0
"""Advice to a client that was turned away for want of room."""


def retry_lines(seconds: float) -> bytes:
    """`retry-after` (whole seconds, rounded up) and `retry-after-ms`, as header lines."""
    return b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (max(1, math.ceil(seconds)), max(1, round(seconds * 1000)))


NO_RETRY = b"x-should-retry: false\r\n"
"""A retry would make a backend that is still at work do the same again."""


def api_error(error: CallError, backend: str, endpoint: str) -> ApiError:
    """The client's error for a call's. A backend's own 4xx about the request keeps its status; what is between the gateway
    and the backend (its credentials, its name for the model) is a 502, never the client's 401 or 404.
    """
    message = f"backend {backend}: {error.message}"
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


def _status_error(error: CallError, message: str, endpoint: str) -> ApiError:
    status = error.status or 502
    if error.request_at_fault:
        return ApiError(status, "invalid_request_error", error.message)
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
