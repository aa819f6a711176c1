"""A connection that carries frames, and how a worker stays connected: what the ends of the link and of the scoring process share."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Generic, NoReturn, Self, TypeAlias, cast

import msgspec

from gateway.errors import LinkError
from gateway.link.framing import FrameReader, Message, encode_frame

log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 0.5
"""A try costs a worker microseconds; while it waits, a new peer cannot bring it up."""

Connector: TypeAlias = Callable[[Callable[[], asyncio.Protocol]], Awaitable[object]]
"""Opens a connection and attaches the protocol that the factory makes."""


def unix_connector(path: str) -> Connector:
    """Connects to the socket at `path`."""

    async def connect(factory: Callable[[], asyncio.Protocol]) -> object:
        return await asyncio.get_running_loop().create_unix_connection(factory, path)

    return connect


class FramedConnection(asyncio.Protocol, Generic[Message]):
    """One connection, at either end, to a peer whose frames hold `messages` (a type that msgspec decodes).

    Its owner is told that it has `opened`, what it has `received`, and that it has `closed`. A frame that holds no such message closes
    it, and so does a `LinkError` of `opened` or `received`; any other error of `received` costs that message alone.
    """

    transport: asyncio.Transport

    def __init__(
        self,
        messages: Any,
        peer: str,
        send_buffer_bytes_max: int | None = None,
        *,
        opened: Callable[[Self], None],
        received: Callable[[Self, Message], None],
        closed: Callable[[Self], None],
    ) -> None:
        self.peer = peer
        """Who is at the other end, for the log."""
        self._send_buffer_bytes_max = send_buffer_bytes_max
        self._reader = FrameReader[Message](msgspec.msgpack.Decoder(messages))
        self._opened: Callable[[Any], None] = opened
        self._received: Callable[[Any, Message], None] = received
        self._closed: Callable[[Any], None] = closed
        self.again_soon = False
        """Once this connection is lost, the backoff starts anew: the peer has said something."""
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        try:
            self._opened(self)
        except LinkError as error:
            self.refuse(error)

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._reader.feed(data)
        except LinkError as error:
            self.refuse(error)
            return
        self.again_soon = True
        for message in messages:
            if self.transport.is_closing():
                return
            try:
                self._received(self, message)
            except LinkError as error:
                self.refuse(error)
            except Exception:  # one message must not take its neighbours along
                log.exception("a %s of %s could not be taken", type(message).__name__, self.peer)

    def send(self, message: object) -> None:
        """Send, never wait. A peer that leaves more than `send_buffer_bytes_max` unread is cut off, not buffered for without end."""
        if self.transport.is_closing():
            return
        self.transport.write(encode_frame(message))
        if self._send_buffer_bytes_max is not None and self.transport.get_write_buffer_size() > self._send_buffer_bytes_max:
            log.error("%s reads nothing: cut off", self.peer)
            self.transport.abort()

    def refuse(self, error: LinkError) -> None:
        """Cut the connection, and say why."""
        log.error("connection with %s closed: %s", self.peer, error)
        self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._closed(self)
        self.lost.set()


async def stay_connected(connect: Connector, make: Callable[[], FramedConnection[Any]]) -> NoReturn:
    """Connect, and again whenever the connection is lost, until cancelled."""
    backoff = BACKOFF_FIRST_S
    while True:
        connection = make()
        try:
            await connect(lambda connection=connection: connection)  # type: ignore[misc]
            await connection.lost.wait()
        except OSError as error:
            log.debug("no connection with %s: %s", connection.peer, error)
        # Not after every connection: a peer that accepts and closes must not spin.
        backoff = BACKOFF_FIRST_S if connection.again_soon else min(2 * backoff, BACKOFF_MAX_S)
        await asyncio.sleep(backoff * random.uniform(0.5, 1.5))
