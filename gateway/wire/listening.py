"""A listening socket that several processes have in common, and how one of them lets go of it.

The kernel resets what waits in its queue when the last of them closes it, though to those clients it is an open connection. So whoever
closes it takes in what waits first; where others still listen, that only changes who answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

from gateway.wire.server import Server

TAKEN_MAX = 4096
"""Connections that are taken in at the end; more than any queue holds (`net.core.somaxconn`)."""
HANDSHAKE_S = 1.0
"""What those are given to agree on TLS."""


async def listen(server: Server, sock: socket.socket, *, ssl: ssl.SSLContext | None, backlog: int) -> Listening:
    """Serve what comes to a bound socket, which the loop closes in the end. OSError if it cannot be listened on."""
    kept = sock.dup()
    try:
        kept.setblocking(False)
        listening = await asyncio.get_running_loop().create_server(server.factory, sock=sock, ssl=ssl, backlog=backlog)
    except BaseException:
        kept.close()
        raise
    return Listening(server, listening, kept, ssl)


class Listening:
    """`sock` is a descriptor of its own for the same queue."""

    def __init__(self, server: Server, listening: asyncio.Server, sock: socket.socket, ssl: ssl.SSLContext | None) -> None:
        self._server = server
        self._listening = listening
        self._sock = sock
        self._ssl = ssl

    async def close(self) -> None:
        """Take in what waits in the queue, and no more."""
        loop = asyncio.get_running_loop()
        self._listening.close()
        taken: list[socket.socket] = []
        with contextlib.suppress(OSError):  # none waits, or no descriptor is left
            while len(taken) < TAKEN_MAX:
                with contextlib.suppress(ConnectionAbortedError):
                    taken.append(self._sock.accept()[0])
        self._sock.close()
        for each in taken:
            each.setblocking(False)
        served = [loop.connect_accepted_socket(self._server.factory, each, ssl=self._ssl) for each in taken]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*served, return_exceptions=True), HANDSHAKE_S)
