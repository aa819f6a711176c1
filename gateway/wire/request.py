"""One parsed request of a client."""

from __future__ import annotations

from typing import final

from gateway.wire.known_head import KnownHead


@final
class Request:
    """One parsed request, its body complete."""

    __slots__ = ("body", "head", "headers", "http10", "keep_alive", "method", "path", "peer", "query", "started")

    def __init__(
        self,
        method: bytes,
        path: bytes,
        query: bytes,
        headers: dict[bytes, bytes],
        peer: str = "",
        started: float = 0.0,
        body: bytes = b"",
        http10: bool = False,
        head: KnownHead | None = None,
    ) -> None:
        self.method = method
        self.path = path
        """Percent-encoded as sent, without the query."""
        self.query = query
        self.headers = headers
        """Lower-case names; repeated ones joined with ", ", a repeated host, content-length, authorization or content-type is refused."""
        self.peer = peer
        """The client's address, without the port; "" on a Unix socket."""
        self.started = started
        """loop.time() of the first byte of the request."""
        self.body = body
        self.http10 = http10
        self.head = head
        """One object for requests that have the same head, of one connection or of several; None where it is not recognised."""
        self.keep_alive = True
        """Another request may follow on its connection."""
