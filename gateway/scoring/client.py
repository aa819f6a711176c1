"""A worker's end of the scoring process: one connection, a bounded number of questions, each with a deadline.

Whatever does not come in time, or cannot be asked, is an assessment that is unavailable: the policy's `when_unscored` decides.
"""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import TimerHandle
from collections.abc import Callable, Mapping
from typing import TypeAlias

from gateway.link.framed import Connector, FramedConnection, stay_connected, unix_connector
from gateway.link.framing import encode_frame
from gateway.scoring.messages import Down, Finding, Question
from gateway.telemetry.counters import Counters
from policies.detector import UNANSWERED, UNAVAILABLE, CompiledDetector
from policies.plan import Assessment

log = logging.getLogger(__name__)

_Connection: TypeAlias = FramedConnection[Down]

DEADLINE_S = 0.25
"""A request waits so long for its score. A text takes some 5 to 70 ms, by its length and by how busy the machine is."""
WAITING_MAX = 64
"""Questions of one worker that are under way: what stands behind so many would come too late."""
SEND_BUFFER_BYTES_MAX = 1024 * 1024
"""Above this nothing more is asked: the process has stopped reading."""
FOLDERS_MAX = 64
"""Detectors whose folder is remembered, the latest."""
SETTLE_S = 1.0
"""What a worker that starts gives the connection before it takes requests."""


class ScoringClient:
    """`gateway.scoring.base.Scoring` over a Unix socket. It connects once a policy has a detector, and stays connected."""

    def __init__(self, path: str, *, counters: Counters, connect: Connector | None = None) -> None:
        self._connect = connect or unix_connector(path)
        self._counters = counters
        self._folders: dict[str, str] = {}
        self._waiting: dict[int, Waiting] = {}
        self._connection: _Connection | None = None
        self._connected = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._number = 0

    def know(self, folders: Mapping[str, str]) -> None:
        """Where each detector of a policy is read from, by its digest. The first one makes it connect."""
        for digest, folder in folders.items():
            self._folders.pop(digest, None)
            self._folders[digest] = folder
        while len(self._folders) > FOLDERS_MAX:
            del self._folders[next(iter(self._folders))]
        if folders and self._runner is None:
            self._runner = asyncio.get_running_loop().create_task(self._run(), name="scoring")

    async def settle(self) -> None:
        """Return once it is connected, if it is to be; after `SETTLE_S` at the latest."""
        if self._runner is not None:
            try:
                await asyncio.wait_for(self._connected.wait(), SETTLE_S)
            except TimeoutError:
                log.warning("the scoring process cannot be reached: requests are unscored")

    @property
    def waiting(self) -> int:
        """Questions under way."""
        return len(self._waiting)

    def ask(
        self, detector: CompiledDetector, text: str, segment: str | None, until: float, take: Callable[[Assessment], None]
    ) -> Waiting | None:
        """See `gateway.scoring.base.Scoring`."""
        connection, folder = self._connection, self._folders.get(detector.digest)
        if connection is None or folder is None:
            self._count(detector, "away")
            return None
        if len(self._waiting) >= WAITING_MAX or connection.transport.get_write_buffer_size() > SEND_BUFFER_BYTES_MAX:
            self._count(detector, "full")
            return None
        now = time.monotonic()
        deadline = min(now + DEADLINE_S, until)
        self._number += 1
        waiting = Waiting(self, self._number, detector, segment, take, now)
        waiting.timer = asyncio.get_running_loop().call_later(max(0.0, deadline - now), waiting.end, "late", UNANSWERED)
        self._waiting[self._number] = waiting
        connection.transport.write(encode_frame(Question(self._number, detector.digest, folder, text, deadline)))
        return waiting

    async def close(self) -> None:
        """Leave; what still waits is unavailable."""
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        if self._connection is not None:
            self._connection.transport.abort()

    async def _run(self) -> None:
        def make() -> _Connection:
            return _Connection(
                Down, "the scoring process", opened=self._opened, received=lambda _, found: self._received(found), closed=self._closed
            )

        await stay_connected(self._connect, make)

    def _count(self, detector: CompiledDetector, result: str) -> None:
        self._counters.counter("headgate_scoring_requests_total", detector.name, result).value += 1

    def _opened(self, connection: _Connection) -> None:
        self._connection = connection
        connection.again_soon = True  # it speaks only when asked
        self._connected.set()

    def _closed(self, connection: _Connection) -> None:
        if self._connection is connection:
            self._connection = None
            for waiting in list(self._waiting.values()):
                waiting.end("away", UNANSWERED)

    def _received(self, finding: Down) -> None:
        waiting = self._waiting.get(finding.number) if isinstance(finding, Finding) else None
        if waiting is None or not isinstance(finding, Finding):  # its deadline was over, or its client has left
            return
        if finding.result == "ok":
            waiting.end("ok", waiting.detector.judged(finding.score, finding.energy, waiting.segment))
        else:
            waiting.end(finding.result, UNAVAILABLE if finding.result == "unavailable" else UNANSWERED)


class Waiting:
    """One question that is under way (`gateway.scoring.base.Asked`)."""

    __slots__ = ("_asked_at", "_client", "_number", "_take", "detector", "segment", "timer")

    timer: TimerHandle

    def __init__(
        self,
        client: ScoringClient,
        number: int,
        detector: CompiledDetector,
        segment: str | None,
        take: Callable[[Assessment], None],
        now: float,
    ) -> None:
        self._client = client
        self._number = number
        self._take = take
        self._asked_at = now
        self.detector = detector
        self.segment = segment

    def end(self, result: str, found: Assessment) -> None:
        """Tell who asked."""
        client = self._client
        self._drop()
        client._count(self.detector, result)
        if result in ("ok", "unavailable"):
            client._counters.histogram("headgate_scoring_seconds", self.detector.name).observe(time.monotonic() - self._asked_at)
        try:
            self._take(found)
        except Exception:  # one exchange must not take its neighbours along
            log.exception("an assessment could not be taken")

    def forget(self) -> None:
        """Nobody waits for the answer any more."""
        self._drop()
        self._client._count(self.detector, "left")

    def _drop(self) -> None:
        self.timer.cancel()
        self._client._waiting.pop(self._number, None)
