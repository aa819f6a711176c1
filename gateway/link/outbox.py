"""What a worker has yet to deliver: records in a bounded spill, and the batches that were sent but not acknowledged.

No I/O and no clock, so that its law can be tested: every record put in is delivered, or counted as dropped, and what is
kept never exceeds its bounds.
"""

from __future__ import annotations

from collections import deque
from typing import final

import msgspec

from gateway.errors import LinkError
from gateway.link.framing import encode_frame
from gateway.link.messages import Content, EncodedRecords, ExchangeRecord, OutboxLimits
from gateway.telemetry.counters import Counters


@final
class _Sent:
    __slots__ = ("frame", "records", "sequence")

    def __init__(self, sequence: int, frame: bytes, records: int) -> None:
        self.sequence = sequence
        self.frame = frame
        self.records = records


@final
class Outbox:
    """Records on their way out, first in, first out."""

    def __init__(self, counters: Counters, limits: OutboxLimits | None = None) -> None:
        self._limits = limits or OutboxLimits()
        # What every record is held against, out of a Struct whose fields take a look-up.
        self._records_max = self._limits.records_max
        self._bytes_max = self._limits.bytes_max
        self._record_bytes_max = self._limits.record_bytes_max
        self._batch_records_max = self._limits.batch_records_max
        self._batch_bytes_max = self._limits.batch_bytes_max
        self._spill: deque[bytes] = deque()
        self._spill_bytes = 0
        self._window: deque[_Sent] = deque()
        self._window_bytes = 0
        self._window_records = 0
        self._unsent = 0
        """Index in the window of the next batch to write: all of them are to be written again after a reconnect."""
        self._sequence = 0
        self._encode = msgspec.msgpack.Encoder().encode
        self._counters = counters
        self._emitted = counters.counter("headgate_records_emitted_total")
        self._depth = counters.counter("headgate_records_queue_depth")

    def __len__(self) -> int:
        """Records not yet acknowledged."""
        return len(self._spill) + self._window_records

    @property
    def bytes_held(self) -> int:
        return self._spill_bytes + self._window_bytes

    @property
    def sequence(self) -> int:
        """Of the last batch made."""
        return self._sequence

    @property
    def acknowledged(self) -> int:
        """Every batch up to this one is in the controller's hands."""
        return self._window[0].sequence - 1 if self._window else self._sequence

    def put(self, record: ExchangeRecord) -> None:
        """Keep `record`, or drop and count it. Never raises."""
        try:
            data = self._encode(record)
            if len(data) > self._record_bytes_max and record.content is not None:
                data = self._encode(msgspec.structs.replace(record, content=Content(b"", b"", truncated=True)))
        except Exception:  # a record that cannot be encoded must not fail the request it tells of
            self.drop("encoding", 1)
            return
        if len(data) > self._record_bytes_max:
            self.drop("too_large", 1)
        elif (
            len(self._spill) + self._window_records >= self._records_max
            or self._spill_bytes + self._window_bytes + len(data) > self._bytes_max
        ):
            self.drop("spill_full", 1)
        else:
            self._spill.append(data)
            self._spill_bytes += len(data)
            self._emitted.value += 1

    def drop(self, why: str, count: int) -> None:
        """Count records that are lost."""
        self._counters.counter("headgate_records_dropped_total", why).value += count

    def batch_is_full(self) -> bool:
        """Enough waits to be worth a write of its own."""
        return len(self._spill) >= self._batch_records_max or self._spill_bytes >= self._batch_bytes_max

    def next_frame(self) -> bytes | None:
        """The next batch to write, None when there is none or the window is full."""
        if self._unsent == len(self._window) and (not self._spill or not self._open_batch()):
            return None
        frame = self._window[self._unsent].frame
        self._unsent += 1
        return frame

    def _open_batch(self) -> bool:
        if len(self._window) >= self._limits.window_batches_max:
            return False
        taken: list[msgspec.Raw] = []
        size = 0
        while self._spill and len(taken) < self._batch_records_max:
            if taken and size + len(self._spill[0]) > self._batch_bytes_max:
                break
            data = self._spill.popleft()
            size += len(data)
            taken.append(msgspec.Raw(data))
        self._spill_bytes -= size
        self._append(taken)
        return True

    def barrier(self) -> None:
        """Queue an empty batch: once it is acknowledged, all that was written before it has arrived."""
        self._append([])

    def _append(self, records: list[msgspec.Raw]) -> None:
        self._sequence += 1
        try:
            frame = encode_frame(EncodedRecords(self._sequence, records))
        except LinkError:  # cannot be: both limits of a batch are far below a frame's
            self.drop("too_large", len(records))
            frame = encode_frame(EncodedRecords(self._sequence, []))
            records = []
        self._window.append(_Sent(self._sequence, frame, len(records)))
        self._window_bytes += len(frame)
        self._window_records += len(records)

    def acknowledge(self, sequence: int) -> None:
        """Let go of every batch up to `sequence`. One that was never written is no business of the peer's: ignored."""
        while self._unsent and self._window[0].sequence <= sequence:
            sent = self._window.popleft()
            self._window_bytes -= len(sent.frame)
            self._window_records -= sent.records
            self._unsent -= 1

    def rewind(self) -> None:
        """A new connection: what was not acknowledged is to be written again."""
        self._unsent = 0

    def note_depth(self) -> None:
        """Bring the gauge up to date."""
        self._depth.value = float(len(self))
