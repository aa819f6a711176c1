"""One gateway and the stand-ins behind it, for all tests of a module; and a client that writes bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import httpx

from tests.e2e.gateway import Gateway, eventually, gateway
from tests.standin import Script, Standin, speaks, standin

KEYS = {"ACME": "hg-acme-0123456789abcdef0123456789abcdef", "ROOT": "hg-root-0123456789abcdef0123456789abcdef"}
"""Keys that a policy may name: `sha256: "${env:ACME_SHA256}"`."""

ALONE = "retries: {attempts: 1}, breaker: {failures: 1000}, readiness: {every: 1h}"
"""For a backend that is to fail: every request is one call, whatever the last one did, and no probe comes between."""


@dataclass
class Site:
    """`small` and `big` are the backends; every test sets their scripts."""

    gateway: Gateway
    small: Standin
    big: Standin

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        return self.gateway.client(None if key is None else KEYS[key])

    def play(self, small: Script | None = None, big: Script | None = None) -> None:
        """Set the scripts, and forget what was asked before."""
        self.small.script = small or speaks("hello from small")
        self.big.script = big or speaks("hello from big")
        self.small.asked.clear()
        self.big.asked.clear()

    async def counted(self, name: str, *, at_least: float) -> None:
        """Wait until a sample has grown so far."""

        async def look() -> bool:
            return (await self.gateway.scrape()).get(name, 0.0) >= at_least

        await eventually(look)

    async def record(self, answer: httpx.Response) -> dict[str, Any]:
        return await self.gateway.exchange(answer.headers["x-headgate-exchange-id"])


@asynccontextmanager
async def site(policy: str, *options: str, environment: Mapping[str, str] | None = None) -> AsyncIterator[Site]:
    """`policy` may say `SMALL` and `BIG` for the stand-ins' URLs, and `ALONE`."""
    async with standin(speaks()) as small, standin(speaks()) as big:
        text = policy.replace("ALONE", ALONE).replace("SMALL", small.url).replace("BIG", big.url)
        digests = {f"{name}_SHA256": sha256(key.encode()).hexdigest() for name, key in KEYS.items()}
        async with gateway(text, *options, environment={**digests, **(environment or {})}) as running:
            yield Site(running, small, big)


class Raw:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, body: dict[str, Any], path: str = "/v1/chat/completions", headers: str = "") -> None:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n{headers}content-length: {len(content)}\r\n\r\n"
        await self.send(head.encode() + content)

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(10):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        return int(first.split(" ")[1]), {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """A whole answer whose body is JSON."""
        status, headers = await self.head()
        async with asyncio.timeout(10):
            return status, headers, json.loads(await self.reader.readexactly(int(headers["content-length"])))

    def close(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def raw(running: Gateway, **options: Any) -> AsyncIterator[Raw]:
    url = httpx.URL(running.data)
    reader, writer = await asyncio.open_connection(url.host, url.port, **options)
    connection = Raw(reader, writer)
    try:
        yield connection
    finally:
        connection.close()
