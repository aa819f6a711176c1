"""Clients that ask one after another, and keep note of what each of them got."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.gateway import chat, events, eventually


@dataclass
class Asked:
    """One request and what came of it. Times are those of `time.monotonic`."""

    stream: bool
    started: float
    status: int = 0
    headers: httpx.Headers = field(default_factory=httpx.Headers)
    headed: float = 0.0
    """When the head had come."""
    ended: float = 0.0
    body: bytes = b""
    broke: str = ""
    """How the connection failed; "" where the answer was whole."""

    @property
    def exchange_id(self) -> str:
        return str(self.headers.get("x-headgate-exchange-id", ""))

    @property
    def version(self) -> str:
        return str(self.headers.get("x-headgate-policy-version", ""))

    @property
    def error(self) -> Any:
        """The error's object, in a body or in a stream."""
        if self.status == 200 and self.stream:
            return next((each["error"] for each in events(self.body) if isinstance(each, dict) and "error" in each), None)
        return None if self.status == 200 else self.body

    @property
    def good(self) -> bool:
        whole = not self.broke and self.status == 200 and self.error is None
        return whole and (not self.stream or events(self.body)[-1:] == ["[DONE]"])

    def __str__(self) -> str:
        return f"{'stream' if self.stream else 'whole'} {self.status} {self.broke} {self.body[-200:]!r}"


class Load:
    """What the clients have asked so far."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.stopping = False

    @property
    def done(self) -> list[Asked]:
        return [each for each in self.asked if each.ended]

    @property
    def bad(self) -> list[Asked]:
        return [each for each in self.done if not each.good]

    @property
    def exchange_ids(self) -> list[str]:
        return [each.exchange_id for each in self.done if each.exchange_id]

    async def more(self, count: int, timeout_s: float = 30.0) -> None:
        """Until so many more requests have been asked and answered."""
        goal = len(self.asked) + count

        async def look() -> bool:
            return len(self.done) >= goal

        await eventually(look, timeout_s)

    def all_good(self) -> None:
        assert not self.bad, f"{len(self.bad)} of {len(self.done)} failed: {[str(each) for each in self.bad[:5]]}"


@asynccontextmanager
async def load(
    url: str,
    *,
    clients: int = 6,
    streams: Iterable[bool] = (True, False),
    keep: bool = True,
    pause_s: float = 0.0,
    body: dict[str, Any] | None = None,
) -> AsyncIterator[Load]:
    """`clients` ask `url` all the time, or with a pause between, streamed and not in turn; they `keep` their connections or not.
    On leaving, each gets its last answer."""
    running = Load()
    kinds = list(streams)
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients if keep else 0)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits, trust_env=False, verify=False) as client:
        tasks = [asyncio.create_task(_ask_always(running, client, kinds, index, pause_s, body or {})) for index in range(clients)]
        try:
            yield running
        finally:
            running.stopping = True
            await asyncio.wait(tasks, timeout=60)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _ask_always(
    running: Load, client: httpx.AsyncClient, kinds: list[bool], index: int, pause_s: float, more: dict[str, Any]
) -> None:
    while not running.stopping:
        await ask(running, client, kinds[index % len(kinds)], more)
        index += 1
        if pause_s:
            await asyncio.sleep(pause_s)


async def ask(running: Load, client: httpx.AsyncClient, stream: bool, more: dict[str, Any]) -> Asked:
    """One request."""
    asked = Asked(stream, time.monotonic())
    running.asked.append(asked)
    received = bytearray()
    try:
        async with client.stream("POST", "/v1/chat/completions", json=chat(stream=stream, **more)) as answer:
            asked.status, asked.headers, asked.headed = answer.status_code, answer.headers, time.monotonic()
            async for piece in answer.aiter_raw():
                received += piece
    except httpx.HTTPError as error:
        asked.broke = f"{type(error).__name__}: {error}"
        if isinstance(error, httpx.ConnectError):
            await asyncio.sleep(0.01)
    asked.body = bytes(received)
    asked.ended = time.monotonic()
    return asked


async def died(pid: int) -> float:
    """When a killed process has let go of its sockets (it may still be a zombie)."""

    async def look() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            return True

    await eventually(look)
    return time.monotonic()


def memory_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    """How many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))
