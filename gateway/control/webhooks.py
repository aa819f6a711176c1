"""Posts alerts to webhooks: a bounded queue each, a few tries, never in anyone's way."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable

import httpx
import msgspec

from gateway.tasks import TaskGroup
from monitors.alerts import Alert

log = logging.getLogger(__name__)

QUEUE_MAX = 256
TRIES_MAX = 4
BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 30.0
TIMEOUT_S = 10.0


class Notice(msgspec.Struct, frozen=True):
    """The JSON body of one delivery."""

    alert: str
    state: str
    subject: str
    since: float
    message: str
    policy_version: str


class Webhooks:
    """Every webhook of the policy in force. `delivered` is told the result of each: ok, failed, dropped."""

    def __init__(self, delivered: Callable[[str], None], transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._delivered = delivered
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S, transport=transport, follow_redirects=False, trust_env=False)
        self._queues: dict[str, asyncio.Queue[Notice]] = {}
        self._senders: dict[str, asyncio.Task[None]] = {}
        self._tasks = TaskGroup()

    def set_urls(self, urls: Iterable[str]) -> None:
        """Post to these from now on. What still waits for one that has gone is dropped."""
        wanted = set(urls)
        for url in [each for each in self._senders if each not in wanted]:
            self._senders.pop(url).cancel()
            for _ in range(self._queues.pop(url).qsize()):
                self._delivered("dropped")
        for url in wanted - self._senders.keys():
            queue = self._queues[url] = asyncio.Queue(QUEUE_MAX)
            self._senders[url] = self._tasks.spawn(self._send_all(url, queue), name="webhook")

    def post(self, alert: Alert, policy_version: str) -> None:
        """Queue for every webhook; returns at once."""
        notice = Notice(alert.name, alert.state, alert.subject, alert.since, alert.message, policy_version)
        for queue in self._queues.values():
            try:
                queue.put_nowait(notice)
            except asyncio.QueueFull:
                self._delivered("dropped")

    async def close(self) -> None:
        """Give up what waits."""
        self.set_urls(())
        await self._tasks.close()
        await self._client.aclose()

    async def _send_all(self, url: str, queue: asyncio.Queue[Notice]) -> None:
        while True:
            notice = await queue.get()
            self._delivered("ok" if await self._send(url, msgspec.json.encode(notice)) else "failed")

    async def _send(self, url: str, body: bytes) -> bool:
        backoff = BACKOFF_FIRST_S
        why = ""
        for attempt in range(TRIES_MAX):
            if attempt:
                await asyncio.sleep(backoff * random.uniform(0.5, 1.5))
                backoff = min(2 * backoff, BACKOFF_MAX_S)
            try:
                # The answer's body is never read: it may be of any length.
                async with self._client.stream("POST", url, content=body, headers={"content-type": "application/json"}) as response:
                    status = response.status_code
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                why = type(error).__name__
                continue
            if 200 <= status < 300:
                return True
            why = f"status {status}"
            if 400 <= status < 500 and status not in (408, 429):
                break
        # The URL is a secret: its host alone is told.
        log.error("an alert could not be delivered", extra={"host": _host(url), "why": why})
        return False


def _host(url: str) -> str:
    try:
        return httpx.URL(url).host
    except httpx.InvalidURL:
        return "?"
