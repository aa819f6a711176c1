from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.link.framing import FrameReader
from gateway.link.messages import OutboxLimits, Records, Up
from gateway.link.outbox import Outbox
from gateway.telemetry.counters import Counters
from tests.gateway.link.examples import record

LIMITS = OutboxLimits(
    records_max=20, bytes_max=6_000, record_bytes_max=2_000, batch_records_max=4, batch_bytes_max=1_500, window_batches_max=3
)


def dropped(counters: Counters) -> float:
    return sum(sample.value for sample in counters.totals() if sample.metric == "headgate_records_dropped_total")


@given(st.lists(st.sampled_from(["put", "put", "put", "big", "write", "ack", "lose"]), max_size=120))
def test_every_record_arrives_once_after_deduplication_or_is_counted_and_the_bounds_hold(steps: list[str]) -> None:
    counters = Counters()
    outbox = Outbox(counters, LIMITS)
    put = 0
    seen: dict[str, int] = {}
    arrived: list[int] = []
    reader = FrameReader[Up](msgspec.msgpack.Decoder(Up))

    def take(frame: bytes) -> None:
        (batch,) = reader.feed(frame)
        assert isinstance(batch, Records)
        arrived.append(batch.sequence)
        for each in batch.records:
            assert seen.setdefault(each.exchange_id, batch.sequence) == batch.sequence  # never in two batches

    for step in steps:
        if step in ("put", "big"):
            outbox.put(record(str(put), content=b"x" * 1_000 if step == "big" else b""))
            put += 1
        elif step == "write" and (frame := outbox.next_frame()):
            take(frame)
        elif step == "ack" and arrived:
            outbox.acknowledge(arrived[-1])
        elif step == "lose":
            outbox.rewind()
        assert len(outbox) <= LIMITS.records_max
        assert outbox.bytes_held <= LIMITS.bytes_max + 16 * LIMITS.window_batches_max  # a frame's own head
    outbox.rewind()
    while len(outbox):
        frame = outbox.next_frame()
        assert frame is not None
        take(frame)
        outbox.acknowledge(arrived[-1])
    assert len(seen) + dropped(counters) == put
    assert counters.counter("headgate_records_emitted_total").value == len(seen)
    assert outbox.bytes_held == 0


def test_a_record_too_large_loses_its_content_and_says_so() -> None:
    outbox = Outbox(Counters(), LIMITS)
    outbox.put(record("x", content=b"x" * 5_000))
    frame = outbox.next_frame()
    assert frame is not None
    (batch,) = FrameReader[Up](msgspec.msgpack.Decoder(Up)).feed(frame)
    assert isinstance(batch, Records)
    content = batch.records[0].content
    assert content is not None
    assert content.truncated
    assert content.request == b""


def test_a_record_that_cannot_be_encoded_is_counted_not_raised() -> None:
    counters = Counters()
    Outbox(counters).put(msgspec.structs.replace(record("x"), code=2**70))
    assert counters.counter("headgate_records_dropped_total", "encoding").value == 1


def test_a_record_too_large_without_content_is_counted() -> None:
    counters = Counters()
    Outbox(counters, LIMITS).put(msgspec.structs.replace(record("x"), error="e" * 5_000))
    assert counters.counter("headgate_records_dropped_total", "too_large").value == 1


def test_an_acknowledgement_of_what_was_never_written_is_ignored() -> None:
    outbox = Outbox(Counters())
    outbox.put(record("x"))
    outbox.acknowledge(99)
    assert len(outbox) == 1
    assert outbox.next_frame() is not None
