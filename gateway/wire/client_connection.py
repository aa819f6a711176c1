"""One connection to a backend: writes a request, parses the response, and pushes it into the ticket's receiver.

What the receiver raises goes to the event loop, which logs it and closes the connection: a bug of ours ends one exchange,
as `truncated`, and no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast, final

import httptools

from gateway.wire.base import FailureKind, WireFailure
from gateway.wire.chunked import whole_chunks
from gateway.wire.heads import fields_bytes, has_no_body
from gateway.wire.known_head import learn

if TYPE_CHECKING:
    from gateway.wire.pool import Pool, PoolTicket

COPY_BYTES_MAX: Final = 64 * 1024
"""Up to here a request's parts are joined for one write; above, the copy costs more than the system call that it saves."""

_TOLD: Final[dict[bytes, bytes]] = {}
"""In place of a head that the receiver has: an open stream need not keep it."""


class _Stop(Exception):  # noqa: N818  (a callback says "enough": httptools takes whatever is raised for a parse error)
    pass


@final
class ClientConnection:
    """An `asyncio.Protocol`. Serves one ticket at a time; between two it lies idle in its pool, where whatever the backend sends is
    a fault."""

    __slots__ = (
        "_between",
        "_body",
        "_complete",
        "_fault",
        "_feed",
        "_head",
        "_head_bytes",
        "_head_done",
        "_head_told",
        "_headers",
        "_interim",
        "_is_head",
        "_parser",
        "_pool",
        "_quiet",
        "_reading_paused",
        "_repeats",
        "_reusable",
        "_status",
        "_ticket",
        "_transport",
        "_until_close",
        "idle_since",
        "on_body",
        "served",
    )

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._ticket: PoolTicket | None = None
        self._reading_paused = False
        self.served = 0
        """Responses that ended cleanly."""
        self.idle_since = 0.0
        self._body: list[bytes] = []
        """What one read brought."""
        self.on_body = self._body.append
        self._head: dict[bytes, bytes] = _TOLD
        self._headers: dict[bytes, bytes] = {}
        """Being read; once the head is complete, the trailers, which nobody gets to see."""
        self._is_head = False
        self._interim = self._until_close = self._reusable = False
        self._fault = ""
        self._parser: Any = None
        self._feed: Any = None
        self._new_parser()
        self._reset()

    def _new_parser(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._feed = self._parser.feed_data

    def _reset(self) -> None:
        if self._headers:
            self._headers = {}
        self._repeats = 0
        self._head_bytes = 0
        """Read so far, while the head is not complete."""
        self._quiet = 0
        """Read since the last byte of the body: httptools buffers a trailer, however long, and says nothing."""
        self._head_done = self._head_told = self._complete = False
        self._between = False
        """The parser has had a chunk, and nothing of the next."""

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    # What the pool and the ticket call

    def send(self, ticket: PoolTicket, parts: Sequence[bytes]) -> bool:
        """Write a whole request; its response goes to the ticket. False, and nothing done, if the connection is closing."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        self._reset()
        self._is_head = parts[0].startswith(b"HEAD ")
        self._ticket = ticket
        ticket.connection = self
        ticket.sent = True
        size = 0
        for part in parts:
            size += len(part)
        if size <= COPY_BYTES_MAX:
            transport.write(b"".join(parts))
        else:
            transport.writelines(parts)
        return True

    def abort(self) -> None:
        """Close at once; the ticket hears nothing more."""
        self._ticket = None
        self._pool.forget(self)
        if self._transport is not None:
            self._transport.abort()

    def cut(self) -> None:
        """Close at once; the ticket hears of it."""
        if self._head_bytes:
            self._fail("truncated", "the pool was shut down")
        else:
            self._fail("closed", "the pool was shut down")

    def pause_reading(self) -> None:
        if not self._reading_paused and self.usable:
            self._reading_paused = True
            cast(asyncio.Transport, self._transport).pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if self.usable:
                cast(asyncio.Transport, self._transport).resume_reading()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        ticket = self._ticket
        if ticket is None:
            self.abort()  # nothing was asked: it would pass for the answer to the next request
            return
        ticket.heard = True
        fault = None
        pool = self._pool
        if not self._head_told:
            first = not self._head_bytes and not self._is_head
            self._head_bytes += len(data)
            if first and pool.known is not None and (whole := pool.known.body(data)) is not None:
                self._take_known(ticket, pool.known.headers(whole), whole)
                return
        elif self._between and (chunks := whole_chunks(data)) is not None:
            self._quiet = 0
            ticket.receiver.response_body(chunks)
            return
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            fault = self._fault or str(error)
        if self._between and not data.endswith(b"\r\n"):  # the next one's length has begun
            self._between = False
        if not self._head_told:
            if not self._head_done:
                if fault is None and self._head_bytes > self._pool.limits.head_bytes_max:
                    fault = "its headers are too large"
                if fault is not None:
                    self._fail("protocol", fault)
                return
            self._head_told = True
            if first and self._complete and self._reusable and self._status == 200 and fault is None:
                pool.known = learn(data, self._head)
            head, self._head = self._head, _TOLD
            ticket.receiver.response_head(self._status, head)
            if self._ticket is not ticket:
                return
        body, pieces = b"", self._body
        if pieces and not self._is_head:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._quiet = 0
            ticket.receiver.response_body(body)
            if self._ticket is not ticket:
                return
        if self._complete:
            self._finish(ticket, reusable=self._reusable and fault is None and not pieces)
        elif fault is not None:
            self._fail("protocol", fault)
        elif not body:
            self._quiet += len(data)
            if self._quiet > self._pool.limits.head_bytes_max:
                self._fail("protocol", "its body stands still between two chunks")

    def _take_known(self, ticket: PoolTicket, headers: dict[bytes, bytes], body: bytes) -> None:
        """A whole response whose head is known."""
        ticket.receiver.response_head(200, headers)
        if self._ticket is ticket:
            ticket.receiver.response_body(body)
            if self._ticket is ticket:
                self._finish(ticket, reusable=True)

    # A request's body is whole and in memory before it is sent: there is nobody to be told to wait.

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def eof_received(self) -> bool:
        return False  # close; connection_lost knows what it means

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._pool.forget(self)
        ticket = self._ticket
        if ticket is not None:
            if self._until_close and exc is None:
                self._finish(ticket, reusable=False)
            elif self._head_bytes:
                self._fail("truncated", "the backend closed the connection before its response was whole")
            else:
                self._fail("closed", "the backend closed the connection without a response")
        # The parser holds this connection's methods, and this connection the parser.
        self._parser = self._feed = None

    # What the parser calls, inside of data_received

    def on_message_begin(self) -> None:
        if self._complete:
            self._stop("it is followed by another")

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        headers = self._headers
        told = value.rstrip()  # httptools leaves trailing optional white space
        if len(told) != len(value) and name == b"transfer-encoding":
            told = value.rstrip(b" ")  # to llhttp "chunked" and a tab is another coding: so it must be for us
        if name not in headers:
            headers[name] = told
            return
        self._repeats += 1
        if self._repeats > self._pool.limits.headers_max:
            self._stop("it has too many header fields")
        headers[name] += b", " + told

    def on_headers_complete(self) -> None:
        limits, headers = self._pool.limits, self._headers
        status = self._status = self._parser.get_status_code()
        if len(headers) + self._repeats > limits.headers_max:
            self._stop("it has too many header fields")
        if self._head_bytes > limits.head_bytes_max and fields_bytes(headers) > limits.head_bytes_max:
            self._stop("its headers are too large")
        if status < 200:
            if status == 101:
                self._stop("it switches to a protocol that nobody asked for")
            if b"transfer-encoding" in headers:  # it has no body, and must not say so (RFC 9112 section 6.1)
                self._stop("it has a Transfer-Encoding, but no body")
            self._interim = True
            self._headers = {}
            return
        self._head, self._headers = headers, {}
        coding = headers.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            self._stop("its Transfer-Encoding is not chunked")
        self._head_done = True
        if self._is_head:
            # llhttp cannot be told that no body follows, and goes on waiting for it: what came of chunks it would have taken in silence.
            self._complete = True
            self._reusable = coding is None and self._parser.should_keep_alive()
        else:
            self._until_close = coding is None and b"content-length" not in headers and not has_no_body(status)

    def on_chunk_header(self) -> None:
        self._between = False

    def on_chunk_complete(self) -> None:
        self._between = True

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        elif not self._complete:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()

    def _stop(self, fault: str) -> NoReturn:
        self._fault = fault
        raise _Stop

    # Ending

    def _finish(self, ticket: PoolTicket, *, reusable: bool) -> None:
        """The response is whole. The connection is put back first, so that `response_end` may already use it again."""
        self._ticket = None
        ticket.connection = None
        if self._reading_paused:
            self.resume_reading()
        if self._is_head and reusable:
            self._new_parser()
        self.served += 1
        if reusable:
            self._pool.put_back(self)
        else:
            self.abort()
        ticket.end()

    def _fail(self, kind: FailureKind, message: str) -> None:
        ticket, reused = self._ticket, self.served > 0
        received = self._head_bytes > 0
        self.abort()
        if kind == "closed" and reused:
            # It was the one used last. Whoever tries again must not meet the next that the backend has closed meanwhile.
            self._pool.drop_idle()
        if ticket is not None:
            ticket.fail(WireFailure(kind, f"{self._pool.address}: {message}", sent=True, received=received, reused=reused))
