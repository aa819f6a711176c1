"""The worker's end of the link, over a Unix socket. The controller may be away, stopped or slow: the worker serves on, never
waits for it, and takes up again when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable

from gateway.link.framed import Connector, FramedConnection, stay_connected, unix_connector
from gateway.link.messages import Ack, Down, ExchangeRecord, Hello, OutboxLimits, Totals, Up
from gateway.link.outbox import Outbox
from gateway.telemetry.counters import Counters
from gateway.telemetry.sample import Sample

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 0.05
TOTALS_INTERVAL_S = 1.0
"""Totals go with the records, too, so that a worker that is killed loses no more of the one than of the other."""
TOTALS_SHARE_MAX = 0.01
"""Of the worker's time that totals may take beyond those of every `TOTALS_INTERVAL_S`: one that counts very many series sends them
less often."""
WRITE_BUFFER_BYTES = 256 * 1024
"""Above this the transport says stop, and batches wait in the outbox, where they are counted."""
SEND_BUFFER_BYTES_MAX = 1024 * 1024
"""Above this small messages are dropped too: the peer has not read for a long time."""


def socket_path(state_dir: str) -> str:
    """Where the controller of this state folder listens."""
    return os.path.join(state_dir, "link.sock")


class WorkerLink:
    """Records, totals and acknowledgements up; policies, overlay and orders down. A `RecordSink`.

    `hello` is asked at every connection, `totals` after every batch and once a second, `on_message` gets every message but `Ack`.
    """

    def __init__(
        self,
        path: str,
        *,
        hello: Callable[[], Hello],
        on_message: Callable[[Down], None],
        totals: Callable[[], list[Sample]],
        counters: Counters,
        limits: OutboxLimits | None = None,
        connect: Connector | None = None,
    ) -> None:
        self._connect = connect or unix_connector(path)
        self._hello = hello
        self._on_message = on_message
        self._totals = totals
        self._totals_sent: list[Sample] = []
        """Over this connection."""
        self._totals_after = 0.0
        """When a batch may take totals along again, `time.monotonic`."""
        self._outbox = Outbox(counters, limits)
        self._connection: _Connection | None = None
        self._runner: asyncio.Task[None] | None = None
        self._flush_timer: asyncio.TimerHandle | None = None
        self._totals_timer: asyncio.TimerHandle | None = None
        self._progress = asyncio.Event()
        """Set by every acknowledgement; `flush` waits for it."""

    def start(self) -> None:
        """Begin to connect; returns at once. Records may be emitted before."""
        self._runner = asyncio.get_running_loop().create_task(stay_connected(self._connect, lambda: _Connection(self)), name="link")
        self._tick()

    @property
    def connected(self) -> bool:
        return self._connection is not None

    @property
    def records_waiting(self) -> int:
        """Records that the controller has not acknowledged."""
        return len(self._outbox)

    def emit(self, record: ExchangeRecord) -> None:
        """Take `record`, or drop and count it. Never waits and never raises."""
        self._outbox.put(record)
        if self._outbox.batch_is_full():
            self._pump()
        elif self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(FLUSH_INTERVAL_S, self._flush_due)

    def send(self, message: Up) -> bool:
        """Send one small message now; False if there is no connection, or the controller has long read nothing."""
        connection = self._connection
        if connection is None or connection.transport.get_write_buffer_size() > SEND_BUFFER_BYTES_MAX:
            return False
        connection.send(message)
        return True

    async def flush(self, timeout: float) -> bool:  # noqa: ASYNC109 - a bound, not a cancellation scope
        """Deliver records and totals; True once the controller has acknowledged them all, False after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not self._all_handed_over():
                    await self._next_progress()
                self._send_totals()
                self._outbox.barrier()
                target = self._outbox.sequence
                self._pump()
                while self._outbox.acknowledged < target:
                    await self._next_progress()
        except TimeoutError:
            return False
        return True

    def _all_handed_over(self) -> bool:
        self._pump()
        return self.connected and not self._outbox

    async def _next_progress(self) -> None:
        self._progress.clear()
        await self._progress.wait()

    async def close(self) -> None:
        """Leave. What was not acknowledged is lost, and counted."""
        for timer in (self._flush_timer, self._totals_timer):
            if timer is not None:
                timer.cancel()
        if self._runner is not None:
            self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner
        if self._connection is not None:
            self._connection.transport.close()
            self._connection = None
        if self._outbox:
            self._outbox.drop("shutdown", len(self._outbox))
            log.warning("%d records were not delivered", len(self._outbox))

    # The connection

    def _opened(self, connection: _Connection) -> None:
        self._connection = connection
        self._totals_sent = []
        connection.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        connection.send(self._hello())
        self._outbox.rewind()
        self._send_totals()
        self._pump()
        self._progress.set()

    def _closed(self, connection: _Connection) -> None:
        if self._connection is connection:
            self._connection = None

    def _received(self, message: Down) -> None:
        if isinstance(message, Ack):
            self._outbox.acknowledge(message.sequence)
            self._progress.set()
            # What has gathered since goes when the timer says: a write for every acknowledgement would make batches of a few
            # records, and every batch costs both sides.
            if self._flush_timer is None or self._outbox.batch_is_full():
                self._pump()
        else:
            self._on_message(message)

    # What goes out

    def _pump(self) -> None:
        connection = self._connection
        if connection is None:
            return
        while not connection.paused and (frame := self._outbox.next_frame()) is not None:
            connection.transport.write(frame)

    def _flush_due(self) -> None:
        self._flush_timer = None
        self._pump()
        if time.monotonic() >= self._totals_after:
            self._send_totals()

    def _tick(self) -> None:
        self._totals_timer = asyncio.get_running_loop().call_later(TOTALS_INTERVAL_S, self._tick)
        self._send_totals()

    def _send_totals(self) -> None:
        """Totals are cumulative: where they cannot be sent now, the next ones say it all."""
        connection = self._connection
        if connection is None or connection.paused:
            return
        started = time.monotonic()
        self._outbox.note_depth()
        samples, sent = self._totals(), self._totals_sent
        changed = [sample for place, sample in enumerate(samples) if place >= len(sent) or sample != sent[place]]
        if changed:
            self._totals_sent = samples
            connection.send(Totals(changed))
        ended = time.monotonic()
        self._totals_after = ended + (ended - started) / TOTALS_SHARE_MAX


class _Connection(FramedConnection[Down]):
    """Notes back-pressure."""

    def __init__(self, link: WorkerLink) -> None:
        super().__init__(
            Down, "the controller", opened=link._opened, received=lambda _, message: link._received(message), closed=link._closed
        )
        self._pump = link._pump
        self.paused = False

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._pump()
