"""The one exception of the endpoint: a request that gets an OpenAI-shaped error."""

from __future__ import annotations


class RequestError(Exception):
    """A request that cannot be served. What is answered instead: HTTP status, message, the field at fault, a code."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    @property
    def kind(self) -> str:
        """OpenAI's `type`."""
        return "invalid_request_error" if self.status < 500 else "server_error"
