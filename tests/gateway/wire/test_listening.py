"""How a worker lets go of the socket that others may still listen on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.wire import listening as listening_module
from gateway.wire.base import Reply, ServerLimits
from gateway.wire.listening import Listening, listen
from gateway.wire.request import Request
from gateway.wire.server import Server
from gateway.wire.ticker import Ticker
from gateway.wire.tls import client_context, server_context
from tests.gateway.wire.rig import render_error

GET = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"


def hello(request: Request, reply: Reply) -> None:
    reply.send(200, b"", b"hello")


@contextlib.asynccontextmanager
async def listener(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Server, Listening, Callable[[], socket.socket]]]:
    """A server that listens, and a function that opens a connection in the kernel before the loop can take it."""
    ticker = Ticker(asyncio.get_running_loop(), period_s=0.02)
    server = Server(hello, ServerLimits(parting_timeout_s=5.0), ticker, render_error=render_error)
    sock = socket.create_server(("127.0.0.1", 0))
    address = sock.getsockname()
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        opened.append(socket.create_connection(address))
        return opened[-1]

    try:
        yield server, await listen(server, sock, ssl=tls, backlog=100), connect
    finally:
        for each in opened:
            each.close()
        server.close()
        await asyncio.wait_for(server.drain(), 5)
        ticker.stop()


async def answer(sock: socket.socket, tls: ssl.SSLContext | None = None) -> bytes:
    """To one request."""
    named = "localhost" if tls else None
    reader, writer = await asyncio.open_connection(sock=sock, ssl=tls, server_hostname=named)
    writer.write(GET)
    async with asyncio.timeout(5):
        said = await reader.read()
    writer.close()
    return said


async def test_what_waits_in_the_queue_is_taken_in_and_answered() -> None:
    async with listener() as (server, listening, connect):
        clients = [connect() for _ in range(20)]
        server.draining = True
        await listening.close()
        for each in clients:
            said = await answer(each)
            assert said.endswith(b"hello")
            assert b"connection: close" in said
        with pytest.raises(ConnectionRefusedError):
            connect()


async def test_who_only_connects_is_taken_in_before_a_tls_handshake(certificate: tuple[str, str]) -> None:
    cert, key = certificate
    async with listener(server_context(cert, key)) as (server, listening, connect):
        client = connect()
        server.draining = True
        closing = asyncio.create_task(listening.close())
        assert (await answer(client, client_context(cert))).endswith(b"hello")
        await closing


async def test_nobody_is_waited_for_who_does_not_shake_hands(certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening_module, "HANDSHAKE_S", 0.05)
    async with listener(server_context(*certificate)) as (_, listening, connect):
        client = connect()
        async with asyncio.timeout(5):
            await listening.close()
            client.setblocking(False)
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""


async def test_another_process_goes_on_listening() -> None:
    async with listener() as (server, listening, connect):
        other = listening._sock.dup()
        try:
            await listening.close()
            client = connect()
            other.accept()[0].sendall(b"it is me")
            assert client.recv(100) == b"it is me"
            assert server.connections_open == 0
        finally:
            other.close()


async def test_where_one_cannot_listen() -> None:
    ticker = Ticker(asyncio.get_running_loop())
    server = Server(hello, ServerLimits(), ticker, render_error=render_error)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises((OSError, ValueError)):
        await listen(server, sock, ssl=None, backlog=1)
    ticker.stop()
