"""The exceptions that Headgate raises on purpose. A failed call is not one of them: it is a value, `policies.plan.CallError`."""

from __future__ import annotations


class HeadgateError(Exception):
    """The root of the tree: whoever catches it catches everything Headgate raises on purpose."""


class ApiError(HeadgateError):
    """A request that is answered with an OpenAI-shaped error instead of a call.

    `headers` are extra response lines, each ending in CRLF (`b"retry-after: 1\\r\\n"`).
    """

    def __init__(
        self, status: int, kind: str, message: str, *, param: str | None = None, code: str | None = None, headers: bytes = b""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers
        self.of_exchange = True
        """The request asked for an exchange, so that its answer has the id of one; False for a path that is not there, say."""


class LinkError(HeadgateError):
    """A peer on the link broke the protocol: a frame too large, a message of another version."""


class StoreError(HeadgateError):
    """The record store could not do what it was asked."""


class StoreFullError(StoreError):
    """There is no room for it: asked again once there is, the store would do it."""
