"""The answer to one request, framed for its client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from gateway.wire.base import Observer
from gateway.wire.heads import has_no_body, status_line
from gateway.wire.request import Request

if TYPE_CHECKING:
    from gateway.wire.server_connection import ServerConnection

COPY_BYTES_MAX: Final = 64 * 1024
"""Up to here pieces are joined for one write; above, the copy costs more than the system call that it saves."""


_CHUNK_HEADS: Final = tuple(b"%x\r\n" % size for size in range(1024))
"""Of chunks as small as a token's: formatting costs more than the rest of a write."""


def _chunk(data: bytes) -> bytes:
    size = len(data)
    return _CHUNK_HEADS[size] + data + b"\r\n" if size < 1024 else b"%x\r\n%b\r\n" % (size, data)


@final
class ConnectionReply:
    """`base.Reply` on a server connection. It lets go of the connection when the answer ends, and so cannot write to it again."""

    __slots__ = ("_chunked", "_connection", "_head_only", "_http10", "_keep_alive", "_transport", "bytes_out", "observer", "started")

    def __init__(self, connection: ServerConnection, transport: asyncio.Transport, request: Request) -> None:
        self.observer: Observer | None = None
        self.started = False
        self.bytes_out = 0
        self._connection: ServerConnection | None = connection
        self._transport = transport
        self._keep_alive = request.keep_alive
        self._http10 = request.http10
        self._head_only = request.method == b"HEAD"
        """What is written as the body is dropped."""
        self._chunked = False
        """Begun, not ended, in chunks."""

    def send(self, status: int, headers: bytes, body: bytes) -> None:
        connection = self._connection
        if connection is None:
            return
        if status != 200 and has_no_body(status):
            head = self._head(connection, status, headers, b"")
            body = b""
        else:
            head = self._head(connection, status, headers, b"content-length: %d\r\n" % len(body))
            if self._head_only:
                body = b""
        self.bytes_out = len(body)
        if len(body) <= COPY_BYTES_MAX:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        self._done(connection)

    def start(self, status: int, headers: bytes, first: bytes = b"") -> None:
        connection = self._connection
        if connection is None:
            return
        framing = b""
        if has_no_body(status):
            self._head_only = True
        elif self._http10:
            self._keep_alive = False  # only closing can tell where the answer ends
        else:
            framing = b"transfer-encoding: chunked\r\n"
            self._chunked = not self._head_only
        head = self._head(connection, status, headers, framing)
        self._transport.write(head + self._frame(first) if first else head)

    def write(self, data: bytes) -> None:
        # The first branch is _frame without the calls: it is the path of every chunk, and _chunked alone says that it is open.
        if self._chunked and data:
            size = len(data)
            self.bytes_out += size
            if size < 1024:
                self._transport.write(_CHUNK_HEADS[size] + data + b"\r\n")
            elif size <= COPY_BYTES_MAX:
                self._transport.write(b"%x\r\n%b\r\n" % (size, data))
            else:
                self._transport.writelines((b"%x\r\n" % size, data, b"\r\n"))
        elif self._connection is not None and (framed := self._frame(data)):
            self._transport.write(framed)

    def end(self, last: bytes = b"") -> None:
        connection = self._connection
        if connection is None:
            return
        if not self.started:
            raise RuntimeError("a reply was ended before it was started")
        tail = self._frame(last)
        if self._chunked:
            tail += b"0\r\n\r\n"
        if tail:
            self._transport.write(tail)
        self._done(connection)

    def abort(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    def detach(self) -> Observer | None:
        """Let go of a connection that is over; every later call is ignored."""
        observer = self.observer
        self.observer = self._connection = None
        self._chunked = False
        return observer

    def _head(self, connection: ServerConnection, status: int, headers: bytes, framing: bytes) -> bytes:
        if self.started:
            raise RuntimeError("a reply was started twice")
        self.started = True
        server = connection.server
        persistence = b""
        if not self._keep_alive or server.draining:
            self._keep_alive = False
            persistence = b"connection: close\r\n"
        elif self._http10:
            persistence = b"connection: keep-alive\r\n"
        ticker = server.ticker
        first = ticker.ok_lines if status == 200 else status_line(status) + ticker.date_line
        return first + headers + framing + persistence + b"\r\n"

    def _frame(self, data: bytes) -> bytes:
        if not self.started:
            raise RuntimeError("a reply was written to before it was started")
        if self._head_only or not data:
            return b""
        self.bytes_out += len(data)
        return _chunk(data) if self._chunked else data

    def _done(self, connection: ServerConnection) -> None:
        self.observer = self._connection = None  # detach, without the call
        self._chunked = False
        connection.reply_ended(self._keep_alive)
