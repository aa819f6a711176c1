"""The controller's end of the link: takes workers' connections on a Unix socket that only its owner may open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from collections.abc import Callable
from typing import cast

import msgspec

from gateway.errors import LinkError
from gateway.link.framing import FrameReader, encode_frame
from gateway.link.messages import LINK_VERSION, Down, Hello, Up

log = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 10.0
CONNECTIONS_MAX = 256
SEND_BUFFER_BYTES_MAX = 32 * 1024 * 1024
"""A worker that has left so much unread is cut off; when it comes back it is told everything anew."""


class Worker:
    """One connected worker, as the controller sees it."""

    def __init__(self, hello: Hello, transport: asyncio.Transport) -> None:
        self.hello = hello
        self._transport = transport

    def __repr__(self) -> str:
        return f"<worker {self.hello.worker} pid {self.hello.pid}>"

    def send(self, message: Down) -> None:
        """Send, never wait. A worker that does not read is cut off instead of being buffered without end."""
        if self._transport.is_closing():
            return
        self._transport.write(encode_frame(message))
        if self._transport.get_write_buffer_size() > SEND_BUFFER_BYTES_MAX:
            log.error("%r reads nothing: cut off", self)
            self._transport.abort()

    def close(self) -> None:
        """Cut the connection."""
        self._transport.abort()


class LinkServer:
    """Every connected worker. Callbacks come in order: `on_hello`, any number of `on_message`, `on_gone`."""

    def __init__(
        self,
        path: str,
        *,
        on_hello: Callable[[Worker], None],
        on_message: Callable[[Worker, Up], None],
        on_gone: Callable[[Worker], None],
    ) -> None:
        self._path = path
        self._on_hello = on_hello
        self._on_message = on_message
        self._on_gone = on_gone
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._inode = 0

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Those that have said hello, by number."""
        known = (connection.worker for connection in self._connections if connection.worker is not None)
        return tuple(sorted(known, key=lambda worker: worker.hello.worker))

    def broadcast(self, message: Down) -> None:
        """Send to every worker."""
        for worker in self.workers:
            worker.send(message)

    async def start(self) -> None:
        """Listen.

        Raises:
            LinkError: Another controller listens there, or the path is no place for a socket.
        """
        listener = listen_unix(self._path)
        self._inode = os.stat(self._path).st_ino
        self._server = await asyncio.get_running_loop().create_unix_server(self.protocol, sock=listener)

    async def close(self) -> None:
        """Stop listening, cut every connection, remove the socket."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.transport.abort()
        await asyncio.sleep(0)
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._path).st_ino == self._inode:  # another controller may have put its own there
                os.unlink(self._path)

    def protocol(self) -> asyncio.Protocol:
        """One connection's protocol: for the socket, or for a transport in memory."""
        return _Connection(self)

    def _opened(self, connection: _Connection) -> None:
        if len(self._connections) >= CONNECTIONS_MAX:
            raise LinkError(f"more than {CONNECTIONS_MAX} connections")
        self._connections.add(connection)

    def _received(self, connection: _Connection, message: Up) -> None:
        if connection.worker is not None:
            self._on_message(connection.worker, message)
            return
        if not isinstance(message, Hello):
            raise LinkError(f"a {type(message).__name__} before hello")
        if message.link_version != LINK_VERSION:
            raise LinkError(f"worker {message.worker} speaks version {message.link_version} of the link, not {LINK_VERSION}")
        for other in list(self._connections):  # the same process over a new connection: the old one is dead
            if other.worker is not None and other.worker.hello.incarnation == message.incarnation:
                other.leave()
        connection.worker = Worker(message, connection.transport)
        self._on_hello(connection.worker)

    def _closed(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        if connection.worker is not None:
            worker, connection.worker = connection.worker, None
            self._on_gone(worker)


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, server: LinkServer) -> None:
        self._server = server
        self._reader = FrameReader[Up](msgspec.msgpack.Decoder(Up))
        self._hello_timer: asyncio.TimerHandle | None = None
        self.worker: Worker | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._hello_timer = asyncio.get_running_loop().call_later(HELLO_TIMEOUT_S, self._hello_overdue)
        try:
            self._server._opened(self)
        except LinkError as error:
            self._refuse(error)

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._reader.feed(data)
        except LinkError as error:
            self._refuse(error)
            return
        for message in messages:
            if self.transport.is_closing():
                return
            try:
                self._server._received(self, message)
            except LinkError as error:
                self._refuse(error)
            except Exception:  # one message must not take its neighbours along
                log.exception("a %s of %r could not be taken", type(message).__name__, self.worker)

    def _refuse(self, error: LinkError) -> None:
        log.error("link connection closed: %s", error)
        self.transport.abort()

    def _hello_overdue(self) -> None:
        if self.worker is None:
            self._refuse(LinkError("no hello"))

    def leave(self) -> None:
        """Cut the connection and say so at once."""
        self._server._closed(self)
        self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        self._server._closed(self)


def listen_unix(path: str) -> socket.socket:
    """A listening socket at `path`, mode 0600 from its first moment: bound under another name and renamed into place, over
    what a dead process left. Raises LinkError."""
    _refuse_live(path)
    name = f"{path}.{os.getpid()}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        listener.bind(name)
        os.chmod(name, 0o600)
        listener.listen(CONNECTIONS_MAX)
        listener.setblocking(False)
        os.rename(name, path)
    except OSError as error:
        listener.close()
        raise LinkError(f"cannot listen on {path}: {error}") from error
    return listener


def _refuse_live(path: str) -> None:
    """Raises LinkError where something other than a dead process's socket is at `path`."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise LinkError(f"{path} is in the way: it is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return
    except OSError as error:
        raise LinkError(f"cannot look at {path}: {error}") from error
    raise LinkError(f"another gateway is using {os.path.dirname(path)}")
