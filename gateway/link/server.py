"""The controller's end of the link: takes workers' connections on a Unix socket that only its owner may open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from collections.abc import Callable

from gateway.errors import LinkError
from gateway.link.framed import FramedConnection
from gateway.link.messages import LINK_VERSION, Down, Hello, Up

log = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 10.0
CONNECTIONS_MAX = 256
SEND_BUFFER_BYTES_MAX = 32 * 1024 * 1024
"""A worker that has left so much unread is cut off; when it comes back it is told everything anew."""


class Worker:
    """One connected worker, as the controller sees it."""

    def __init__(self, hello: Hello, connection: FramedConnection[Up]) -> None:
        self.hello = hello
        self._connection = connection

    def __repr__(self) -> str:
        return f"<worker {self.hello.worker} pid {self.hello.pid}>"

    def send(self, message: Down) -> None:
        """Send, never wait. A worker that does not read is cut off."""
        self._connection.send(message)

    def close(self) -> None:
        """Cut the connection."""
        self._connection.transport.abort()


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
        return _Connection(Up, "a worker", SEND_BUFFER_BYTES_MAX, opened=self._opened, received=self._received, closed=self._closed)

    def _opened(self, connection: _Connection) -> None:
        connection.hello_timer = asyncio.get_running_loop().call_later(HELLO_TIMEOUT_S, self._hello_overdue, connection)
        if len(self._connections) >= CONNECTIONS_MAX:
            raise LinkError(f"more than {CONNECTIONS_MAX} connections")
        self._connections.add(connection)

    def _hello_overdue(self, connection: _Connection) -> None:
        if connection.worker is None:
            connection.refuse(LinkError("no hello"))

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
                self._closed(other)
                other.transport.abort()
        connection.worker = Worker(message, connection)
        connection.peer = repr(connection.worker)
        self._on_hello(connection.worker)

    def _closed(self, connection: _Connection) -> None:
        connection.hello_timer.cancel()
        self._connections.discard(connection)
        if connection.worker is not None:
            worker, connection.worker = connection.worker, None
            self._on_gone(worker)


class _Connection(FramedConnection[Up]):
    """Of a worker, once it has said hello."""

    hello_timer: asyncio.TimerHandle
    worker: Worker | None = None


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
