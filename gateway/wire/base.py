"""The two sides of HTTP/1.1 as the rest of the gateway sees them: requests come in with a `Reply` to write to, responses come
in through a `Receiver`. Everything is a callback: no task, queue or await stands between a chunk that is read and its write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

from gateway.wire.request import Request


class ServerLimits(msgspec.Struct, frozen=True):
    """What one client may cost before it is answered. Every timeout is swept a few times a second, not timed one by one."""

    head_bytes_max: int = 32 * 1024
    headers_max: int = 100
    uri_bytes_max: int = 8 * 1024
    body_bytes_max: int = 32 * 1024 * 1024
    pipelined_bytes_max: int = 256 * 1024
    """Bytes read ahead of the request being answered; reading pauses there."""
    pipelined_requests_max: int = 128
    """Requests that one read may bring; a client that sends more at once is refused."""
    head_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    """Without a byte of the body for so long."""
    idle_timeout_s: float = 75.0
    parting_timeout_s: float = 1.0
    """How long an idle connection stays open while the server drains: its client has not been told that it will be closed, and may just
    be asking."""
    write_timeout_s: float = 60.0
    """A client that takes nothing for so long is dropped."""
    linger_timeout_s: float = 5.0
    """How long a refused client may go on sending, so that it gets to read why, before it is cut off."""
    connections_max: int = 20_000


class ClientLimits(msgspec.Struct, frozen=True):
    """What one backend connection may cost."""

    head_bytes_max: int = 64 * 1024
    headers_max: int = 200
    connections_max: int = 2_000
    """Open connections of one pool."""
    idle_max: int = 256
    """Idle connections kept."""
    idle_timeout_s: float = 30.0
    connect_timeout_s: float = 2.0


class Observer(Protocol):
    """Told what happens to the client while its request is being answered."""

    def client_left(self) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Reply(Protocol):
    """Where one request's answer is written. One for each request, so that a late writer can never reach another's client:
    after `end`, `abort` or the client's leaving every call is ignored.

    `headers` are ready lines, each ending in CRLF; the connection adds the status line, date, framing and `connection`.
    """

    observer: Observer | None
    started: bool
    """Something has been written."""
    bytes_out: int
    """Payload bytes written (framing excluded)."""

    def send(self, status: int, headers: bytes, body: bytes) -> None: ...
    def start(self, status: int, headers: bytes, first: bytes = b"") -> None:
        """Begin a chunked answer; head and `first` leave in one write."""
        ...

    def write(self, data: bytes) -> None: ...
    def end(self, last: bytes = b"") -> None: ...
    def abort(self) -> None:
        """Close the connection without ending the answer."""
        ...


Handler: TypeAlias = Callable[[Request, Reply], None]

FailureKind: TypeAlias = Literal["connect", "timeout_connect", "closed", "truncated", "protocol", "exhausted"]


class WireFailure(msgspec.Struct, frozen=True):
    """Why a response will not come, or will not come whole."""

    kind: FailureKind
    message: str
    sent: bool = False
    """Bytes of the request had been written."""
    received: bool = False
    """Bytes of a response had been read."""
    reused: bool = False
    """The connection had served before: a close without a byte is then the keep-alive race."""


class Receiver(Protocol):
    """Takes one response. `response_body` gets all that one read brought, joined."""

    def response_head(self, status: int, headers: dict[bytes, bytes]) -> None: ...
    def response_body(self, data: bytes) -> None: ...
    def response_end(self) -> None: ...
    def response_failed(self, failure: WireFailure) -> None: ...


class Ticket(Protocol):
    """One request in a pool's hands."""

    receiver: Receiver
    """May be replaced while the response runs: the new one gets what follows."""
    heard: bool
    """Set by every read; a sweeper clears it to see who has gone silent."""
    sent: bool
    """The request has been written to a connection."""

    def cancel(self) -> None:
        """Drop the request and close its connection; the receiver hears nothing more."""
        ...

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class RequestSender(Protocol):
    """A pool of connections to one address."""

    def request(self, parts: Sequence[bytes], receiver: Receiver, *, connect_timeout_s: float) -> Ticket:
        """Send a whole request (head and body, framed) and hand the response to `receiver`. Never raises and never waits:
        a failure arrives through `response_failed`, always after this call has returned."""
        ...
