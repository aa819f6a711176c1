"""The process that scores what would hold up an event loop: takes texts from every worker, scores those that wait together.

One loop reads and writes, one thread computes. What waits is bounded, and what nobody waits for any more is not computed.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeAlias

from gateway.link.framed import FramedConnection
from gateway.link.server import listen_unix
from gateway.scoring.messages import Finding, Open, Opened, Question, Up
from policies.ood.energy import Scored

log = logging.getLogger(__name__)

_Connection: TypeAlias = FramedConnection[Up]

QUEUE_MAX = 256
"""What waits, of all workers: far more than can be computed before its deadline."""
BATCH_MAX = 8
"""Texts that are scored together: more would make the first of them wait too long."""
SEND_BUFFER_BYTES_MAX = 1024 * 1024
"""A worker that has left so much unread is cut off; it connects again."""


class Asked(Protocol):
    """`gateway.scoring.detectors.Detectors`."""

    def open(self, digest: str, folder: str) -> str: ...

    def score(self, digest: str, folder: str, texts: Sequence[str]) -> list[Scored] | None: ...


class ScoringServer:
    """Every connection, one queue, one thread."""

    def __init__(self, path: str, detectors: Asked) -> None:
        self._path = path
        self._detectors = detectors
        self._queue: deque[tuple[_Connection, Up]] = deque()
        self._filled = asyncio.Event()
        self._connections: set[_Connection] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until told to stop. Raises LinkError where it cannot listen."""
        server = await asyncio.get_running_loop().create_unix_server(self._connection, sock=listen_unix(self._path))
        worker = asyncio.create_task(self._work())
        ending = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((worker, ending), return_when=asyncio.FIRST_COMPLETED)
            if worker.done():
                worker.result()
        finally:
            server.close()
            for task in (worker, ending):
                task.cancel()
            for connection in list(self._connections):
                connection.transport.abort()

    def _connection(self) -> _Connection:
        return _Connection(
            Up, "a worker", SEND_BUFFER_BYTES_MAX, opened=self._connections.add, received=self.take, closed=self._connections.discard
        )

    def take(self, connection: _Connection, message: Up) -> None:
        """Put it in the queue, or say that there is no room."""
        if len(self._queue) < QUEUE_MAX:
            self._queue.append((connection, message))
            self._filled.set()
        elif isinstance(message, Question):
            connection.send(Finding(message.number, "full"))
        else:
            connection.send(Opened(message.digest, f"the scoring process is busy: {QUEUE_MAX} texts wait"))

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "scoring") as thread:
            while True:
                await self._filled.wait()
                connection, first = self._queue[0]
                if isinstance(first, Open):
                    self._queue.popleft()
                    error = await loop.run_in_executor(thread, self._open, first.digest, first.folder)
                    if error:
                        log.error("a detector cannot be used", extra={"digest": first.digest, "why": error})
                    connection.send(Opened(first.digest, error))
                elif batch := self._batch(time.monotonic()):
                    texts = [question.text for _, question in batch]
                    found = await loop.run_in_executor(thread, self._score, first.digest, first.folder, texts)
                    for place, (asker, question) in enumerate(batch):
                        asker.send(_finding(question.number, None if found is None else found[place]))
                if not self._queue:
                    self._filled.clear()

    def _batch(self, now: float) -> list[tuple[_Connection, Question]]:
        """The questions at the head of the queue to one detector whose askers still wait; the others there are answered."""
        batch: list[tuple[_Connection, Question]] = []
        digest = ""
        while self._queue and len(batch) < BATCH_MAX:
            connection, question = self._queue[0]
            if not isinstance(question, Question) or question.digest != (digest or question.digest):
                break
            self._queue.popleft()
            digest = question.digest
            if question.deadline <= now:
                connection.send(Finding(question.number, "late"))
            elif not connection.transport.is_closing():
                batch.append((connection, question))
        return batch

    def _open(self, digest: str, folder: str) -> str:
        """On the thread."""
        try:
            return self._detectors.open(digest, folder)
        except Exception as error:
            log.exception("a detector could not be read", extra={"digest": digest})
            return f"{type(error).__name__}: {error}"

    def _score(self, digest: str, folder: str, texts: Sequence[str]) -> list[Scored] | None:
        """On the thread. One text that cannot be scored must not end the process."""
        try:
            return self._detectors.score(digest, folder, texts)
        except Exception:
            log.exception("texts could not be scored", extra={"texts": len(texts)})
            return None


def _finding(number: int, scored: Scored | None) -> Finding:
    if scored is None:
        return Finding(number, "failed")
    if scored.status != "ok" or scored.score != scored.score:
        return Finding(number, "unavailable")
    return Finding(number, "ok", scored.score, scored.energy)


async def serve(path: str, detectors: Asked) -> None:
    """Serve until SIGTERM or SIGINT. Raises LinkError where it cannot listen."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await ScoringServer(path, detectors).run(stop)
