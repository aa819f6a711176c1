"""One client's connection: reads requests, hands them to the handler one at a time, notices when the client leaves.

The client's end of stream while its request is being answered counts as leaving (nginx's rule). HTTP would allow a client to
close only its sending side and wait; no client library does, and a kernel reports both with the same event, so whoever waits
for a failed write instead goes on generating tokens for nobody.
"""

from __future__ import annotations

import asyncio
import logging
import math
import select
from typing import TYPE_CHECKING, Final, cast, final

from gateway.wire.heads import status_line
from gateway.wire.reply import ConnectionReply
from gateway.wire.request_reader import Fault, RequestReader

if TYPE_CHECKING:
    from gateway.wire.server import Server

log: Final = logging.getLogger(__name__)

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_PIECE_BYTES: Final = 2048
"""What was kept is parsed in pieces of this size, so that few requests are parsed before the first of them is answered."""


@final
class ServerConnection:
    """An `asyncio.Protocol`. Reading: a request is parsed when the one before it has been answered; what comes meanwhile is kept as bytes.

    Four states: waiting for a request (not `_busy`), answering one (`_reply`), between two that came together (`_busy` alone),
    and over (`_over`: a last answer is on its way out, what still comes in is thrown away).
    """

    __slots__ = (
        "_busy",
        "_kept",
        "_over",
        "_reader",
        "_reading_paused",
        "_reply",
        "_taken",
        "_transport",
        "_writing_paused",
        "deadline",
        "server",
    )

    def __init__(self, server: Server) -> None:
        self.server = server
        self.deadline = math.inf
        """When the server's sweep should call `overdue` (loop.time())."""
        self._transport: asyncio.Transport | None = None
        self._reply: ConnectionReply | None = None
        self._busy = False
        self._over = False
        self._kept = bytearray()
        self._reading_paused = False
        self._writing_paused = False
        self._taken = 0

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._reader = RequestReader(self.server.limits, peer[0] if isinstance(peer, tuple) else "", self.server.last_head)
        if not self.server.opened(self):
            self._write_fault(Fault(503, "Too many connections."))
            self._finish()
        else:
            self.deadline = self._idle_until()

    def data_received(self, data: bytes) -> None:
        if self._busy:
            self._keep(data)
            return
        reader, server = self._reader, self.server
        if not reader.begun:
            reader.bound_by(server.limits)  # a reload may have changed them
        reader.feed(data, server.now())
        if reader.ready or reader.fault:
            self._busy = True
            self._serve()
        else:
            self._wait()

    def eof_received(self) -> bool:
        if self._reply is not None:
            self._drop()
        elif not self._over:
            self._finish()
        return False  # close

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._over = self._busy = True
        self.deadline = math.inf
        self.server.closed(self)
        self._left()
        self._reader.close()

    def pause_writing(self) -> None:
        self._writing_paused = True
        self._taken = self._bytes_taken()
        self._set_deadline()
        if self._reply is not None and self._reply.observer is not None:
            self._reply.observer.pause_writing()

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._set_deadline()
        if self._reply is None:
            self._go_on()
        elif self._reply.observer is not None:
            self._reply.observer.resume_writing()

    # What the reply calls

    def reply_ended(self, keep_alive: bool) -> None:
        reader, server = self._reader, self.server
        self._reply = None
        if self._writing_paused:
            self._taken = self._bytes_taken()
        if not keep_alive:
            self._finish()
        elif self._kept or reader.ready or reader.begun or reader.fault or self._writing_paused:
            # Not from here: this may be deep in an upstream's read.
            server.loop.call_soon(self._go_on)
        else:
            self._busy = False
            self.deadline = self._idle_until()

    def abort(self) -> None:
        """Cut the connection off; a reply under way is over, and its observer is not told, since it was it that asked."""
        self._over = self._busy = True
        if self._reply is not None:
            self._reply.detach()
            self._reply = None
        if self._transport is not None:
            self._transport.abort()

    # What the server calls

    def drain(self) -> None:
        """Close soon if no request comes; one that is under way, or that does come, is answered with `connection: close`."""
        if not self._busy and not self._reader.begun:
            self.deadline = min(self.deadline, self._idle_until())

    def overdue(self, now: float) -> None:
        """`deadline` has passed."""
        limits = self.server.limits
        if self._writing_paused:
            taken = self._bytes_taken()
            if taken > self._taken:
                self._taken = taken
                self.deadline = now + limits.write_timeout_s
            else:
                self._drop()
        elif self._over:
            self.abort()
        elif self._busy:
            if self._reading_paused and self._peer_has_closed():
                self._drop()
        elif self._reader.begun:
            self._refuse(Fault(408, "The request did not arrive in time."))
        else:
            self._finish()

    # Reading

    def _wait(self) -> None:
        """For the rest of a request, or for the next one."""
        reader, limits, now = self._reader, self.server.limits, self.server.ticker.now
        if reader.in_body:
            self.deadline = now + limits.body_timeout_s
            if reader.continue_wanted and self._transport is not None:
                reader.continue_wanted = False
                self._transport.write(_CONTINUE)
        elif reader.begun:
            self.deadline = reader.started + limits.head_timeout_s
        else:
            self.deadline = self._idle_until()

    def _idle_until(self) -> float:
        """How long to wait for the next request. While the server drains, a while too: an answer that promised to keep the connection, or
        none at all, may have crossed with a request, and closing now would reset it (RFC 9112 section 9.6)."""
        server = self.server
        return server.ticker.now + (server.limits.parting_timeout_s if server.draining else server.limits.idle_timeout_s)

    def _keep(self, data: bytes) -> None:
        if self._over:
            return
        self._kept += data
        if len(self._kept) > self.server.limits.pipelined_bytes_max and not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()
            self._set_deadline()

    def _go_on(self) -> None:
        """With what has come while the last request was being answered."""
        if self._over or self._reply is not None or self._writing_paused or not self._busy:
            return
        reader = self._reader
        while self._kept and not (reader.ready or reader.fault):
            piece = bytes(self._kept[:_PIECE_BYTES])
            del self._kept[:_PIECE_BYTES]
            reader.feed(piece, self.server.now())
        if self._reading_paused and len(self._kept) <= self.server.limits.pipelined_bytes_max and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()
        if reader.ready or reader.fault:
            self._serve()
        else:
            self._busy = False
            reader.started = self.server.now()  # what there is of the next request could not be answered before
            self._wait()

    def _serve(self) -> None:
        """The next complete request, or the fault that came after the last one."""
        reader = self._reader
        if not reader.ready:
            assert reader.fault is not None
            self._refuse(reader.fault)
            return
        if self._transport is None:
            return
        request = reader.ready.pop(0)
        reply = self._reply = ConnectionReply(self, self._transport, request)
        # With reading paused nothing tells that the client has left, so every sweep asks.
        self.deadline = 0.0 if self._reading_paused else math.inf
        try:
            self.server.handler(request, reply)
        except Exception:
            log.exception("the handler failed")
            self._handler_failed(reply)

    def _handler_failed(self, reply: ConnectionReply) -> None:
        if self._reply is not reply:
            return
        if reply.started:
            self.abort()
            return
        reply.detach()
        self._reply = None
        self._refuse(Fault(500, "The gateway failed to handle the request."))

    # Ending

    def _refuse(self, fault: Fault) -> None:
        """Answer a request that cannot be read, and close once the client has had a chance to read why: closing with bytes
        unread would reset the connection, and the answer with it."""
        transport = self._transport
        if transport is None:
            return
        self._over = self._busy = True
        self.deadline = self.server.ticker.now + self.server.limits.linger_timeout_s
        self.server.hooks.wire_error(fault.status)
        self._write_fault(fault)
        if transport.can_write_eof():
            transport.write_eof()
        if self._reading_paused:
            self._reading_paused = False
            transport.resume_reading()

    def _write_fault(self, fault: Fault) -> None:
        server = self.server
        headers, body = server.render_error(fault.status, fault.message)
        fields = b"%bcontent-length: %d\r\nconnection: close\r\n" % (headers, len(body))
        if self._transport is not None:
            self._transport.write(b"%b%b%b\r\n%b" % (status_line(fault.status), server.ticker.date_line, fields, body))

    def _finish(self) -> None:
        """Close once what has been written is out."""
        self._over = self._busy = True
        self.deadline = self.server.ticker.now + self.server.limits.write_timeout_s
        if self._transport is not None:
            self._transport.close()

    def _drop(self) -> None:
        """The client is gone, though the event loop has not said so."""
        self._left()
        self.abort()

    def _left(self) -> None:
        reply, self._reply = self._reply, None
        self._over = self._busy = True
        if reply is None:
            return
        observer = reply.detach()
        if observer is not None:
            try:
                observer.client_left()
            except Exception:
                log.exception("an observer failed")

    # Clocks

    def _set_deadline(self) -> None:
        """While a request is being answered."""
        if self._over:
            return
        if self._writing_paused:
            self.deadline = self.server.ticker.now + self.server.limits.write_timeout_s
        else:
            self.deadline = 0.0 if self._reading_paused else math.inf

    def _bytes_taken(self) -> int:
        """A number that grows when the client takes something; framing, which it leaves out, can only make it smaller."""
        if self._transport is None:
            return 0
        return (self._reply.bytes_out if self._reply is not None else 0) - self._transport.get_write_buffer_size()

    def _peer_has_closed(self) -> bool:
        """Has the client closed its side behind the bytes that are not being read? Only Linux can tell; elsewhere: no."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None or not hasattr(select, "POLLRDHUP"):
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))
