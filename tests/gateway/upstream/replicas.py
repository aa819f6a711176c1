"""A replica on a real socket that does as it is told, request by request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec


class Seen(msgspec.Struct):
    """One request that came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


Act = Callable[[Seen, asyncio.StreamWriter], Awaitable[bool]]
"""Answers one request; True: the connection can take another."""


def head(status: int, *lines: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} X", *lines, "", ""]).encode()


def answers(status: int = 200, body: Any = b"{}", *lines: str) -> Act:
    """A whole answer; a body that is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(head(status, f"content-length: {len(data)}", *lines) + data)
        return True

    return act


async def closes(seen: Seen, writer: asyncio.StreamWriter) -> bool:
    """Takes the request and closes without a byte."""
    return False


async def dies_mid_body(seen: Seen, writer: asyncio.StreamWriter) -> bool:
    writer.write(head(200, "content-length: 100") + b"half an ans")
    await writer.drain()
    return False


async def garbage(seen: Seen, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    return False


async def hangs(seen: Seen, writer: asyncio.StreamWriter) -> bool:
    await asyncio.Event().wait()
    return False


class RealReplica:
    """Does `acts` one after another, the last for ever. `async with RealReplica(...) as replica: replica.url`."""

    def __init__(self, *acts: Act) -> None:
        self.acts = list(acts)
        self.seen: list[Seen] = []
        self.arrived = asyncio.Event()
        self.hung_up = asyncio.Event()
        """A client closed its connection."""
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> RealReplica:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            again = True
            while again:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])}
                body = await reader.readexactly(int(headers["content-length"]))
                seen = Seen(lines[0].split(" ")[1], headers, body)
                self.seen.append(seen)
                self.arrived.set()
                act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
                acting = asyncio.ensure_future(act(seen, writer))
                gone = asyncio.ensure_future(reader.read(1)) if act is hangs else None
                await asyncio.wait([acting, gone] if gone else [acting], return_when=asyncio.FIRST_COMPLETED)
                if gone is not None:
                    acting.cancel()
                    self.hung_up.set()
                    return
                again = acting.result()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.hung_up.set()
        finally:
            self._tasks.discard(task)
            writer.close()


async def refused_url() -> str:
    """An address where nobody listens."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return f"http://127.0.0.1:{port}"
