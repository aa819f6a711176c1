"""Spans as a collector gets them: over HTTP, decoded with OpenTelemetry's own protocol."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from msgspec.structs import replace
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.proto.trace.v1.trace_pb2 import Status as SpanStatus
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from gateway.link.messages import AuditRecord
from gateway.records.spans import MODEL_CHARS_MAX, Spans
from gateway.telemetry import tracing
from gateway.telemetry.metrics import Exposition
from gateway.telemetry.tracing import SpanQueue
from tests.collector import Collector, collecting
from tests.gateway.records.examples import CALL, DEFERRED, FAILED, RECORD, content, record


@pytest.fixture
def receiver() -> Iterator[Collector]:
    with collecting() as server:
        yield server


@pytest.fixture
def exposition() -> Exposition:
    return Exposition()


@pytest.fixture
def queue(receiver: Collector, exposition: Exposition) -> Iterator[SpanQueue]:
    queue = SpanQueue(receiver.endpoint, exposition)
    yield queue
    queue.close()


def attributes(holder: Any) -> dict[str, Any]:
    def plain(value: AnyValue) -> Any:
        kind = value.WhichOneof("value")
        return [plain(entry) for entry in value.array_value.values] if kind == "array_value" else getattr(value, str(kind))

    return {entry.key: plain(entry.value) for entry in holder.attributes}


def test_a_collector_gets_the_exchange_and_its_calls_with_the_right_parents(
    receiver: Collector, queue: SpanQueue, exposition: Exposition
) -> None:
    Spans(queue, exposition).take([RECORD])
    queue.flush()
    server, failed, served = receiver.spans
    assert {span.trace_id.hex() for span in receiver.spans} == {RECORD.trace_id}
    assert (server.parent_span_id.hex(), server.span_id.hex()) == (RECORD.parent_span_id, RECORD.span_id)
    assert {span.parent_span_id.hex() for span in (failed, served)} == {RECORD.span_id}
    assert [span.span_id.hex() for span in (failed, served)] == [FAILED.span_id, CALL.span_id], "the ids that the backends were given"
    assert [span.kind for span in receiver.spans] == [Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_CLIENT]
    assert [span.name for span in receiver.spans] == ["POST /v1/chat/completions", "chat support", "chat support"]
    assert attributes(receiver.requests[0].resource_spans[0].resource)["service.name"] == "headgate"
    assert exposition.value("headgate_spans_exported_total") == 3


def test_times_are_the_records(receiver: Collector, queue: SpanQueue, exposition: Exposition) -> None:
    Spans(queue, exposition).take([RECORD])
    queue.flush()
    server, _, served = receiver.spans

    def since_start(ns: int) -> float:
        return pytest.approx((ns - RECORD.started_at * 1e9) / 1e9, abs=1e-6)  # type: ignore[no-any-return]

    assert since_start(server.start_time_unix_nano) == 0
    assert since_start(server.end_time_unix_nano) == RECORD.duration
    assert since_start(served.start_time_unix_nano) == CALL.started
    assert since_start(served.end_time_unix_nano) == CALL.ended
    assert [(event.name, since_start(event.time_unix_nano)) for event in server.events] == [("commit", RECORD.committed)]
    assert [(event.name, since_start(event.time_unix_nano)) for event in served.events] == [("retry", 0.002), ("hold", CALL.held)]
    assert attributes(served.events[0]) == {"headgate.replica": "http://vllm-a:8000", "error.type": "connect"}


def test_a_guard_and_a_deferral_are_events(receiver: Collector, queue: SpanQueue, exposition: Exposition) -> None:
    Spans(queue, exposition).take([DEFERRED])
    queue.flush()
    server, small, big = receiver.spans
    assert [(event.name, attributes(event)) for event in server.events] == [
        ("assess", {"headgate.ood": "false"}),
        ("commit", {"headgate.backend": "big"}),
    ]
    assert [event.name for event in small.events] == ["retry", "hold", "defer"]
    assert attributes(small.events[-1]) == {"headgate.by": "mean_logprob"}
    assert [event.name for event in big.events] == []


def test_audits_are_events_and_the_call_that_was_made_for_one_is_a_span(
    receiver: Collector, queue: SpanQueue, exposition: Exposition
) -> None:
    late = replace(CALL, backend="big", span_id="00000000000000b1", started=1.6, ended=2.5)
    lost = replace(FAILED, span_id="00000000000000b0", started=1.5, ended=1.6)
    audits = (AuditRecord("audit_accepted", "big", False, "", late, (lost,)), AuditRecord("audit_deferred", "tiny", None, "timeout"))
    Spans(queue, exposition).take([replace(RECORD, calls=(CALL,), audits=audits)])
    queue.flush()
    server, served, failed, audit = receiver.spans
    assert [(event.name, attributes(event)) for event in server.events] == [
        ("commit", {"headgate.backend": "small"}),
        ("audit", {"headgate.purpose": "audit_accepted", "headgate.backend": "big", "headgate.result": "disagreed"}),
        ("audit", {"headgate.purpose": "audit_deferred", "headgate.backend": "tiny", "headgate.result": "timeout"}),
    ]
    assert (audit.span_id.hex(), audit.parent_span_id) == (late.span_id, server.span_id)
    assert failed.span_id.hex() == lost.span_id
    assert attributes(failed)["error.type"] == lost.result
    assert {attributes(each)["headgate.purpose"] for each in (failed, audit)} == {"audit_accepted"}
    assert "headgate.purpose" not in attributes(served)
    assert audit.end_time_unix_nano > server.end_time_unix_nano, "the client did not wait for it"


def test_attributes_follow_the_conventions(receiver: Collector, queue: SpanQueue, exposition: Exposition) -> None:
    Spans(queue, exposition).take([RECORD])
    queue.flush()
    server, failed, served = receiver.spans
    assert attributes(server) == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "headgate.exchange_id": "ex-1",
        "headgate.request_id": "req-1",
        "headgate.route": "support",
        "headgate.backend": "small",
        "headgate.reason": "failover",
        "headgate.policy_version": "3f9c2a",
        "headgate.overhead": 0.0006,
        "headgate.segment.tenant": "acme",
        "headgate.segment.prompt_length": "<200",
    }
    assert attributes(served) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "support",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "small-2026",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 120,
        "gen_ai.usage.output_tokens": 48,
        "gen_ai.response.time_to_first_chunk": pytest.approx(0.2198),
        "http.response.status_code": 200,
        "server.address": "vllm-b",
        "server.port": 8000,
        "headgate.backend": "small",
        "headgate.cost": 0.00031,
        "headgate.currency": "USD",
    }
    assert attributes(failed)["error.type"] == "breaker_open"
    assert [span.status.code for span in receiver.spans] == [
        SpanStatus.STATUS_CODE_UNSET,
        SpanStatus.STATUS_CODE_ERROR,
        SpanStatus.STATUS_CODE_UNSET,
    ]


def test_nothing_that_was_said_is_exported(receiver: Collector, queue: SpanQueue, exposition: Exposition) -> None:
    secret = b"SECRET-PROMPT"
    told = record(
        1,
        content=content(secret, secret),
        error=secret.decode(),
        unit=secret.decode(),
        key=secret.decode(),
        calls=(replace(FAILED, message=secret.decode()),),
    )
    Spans(queue, exposition).take([told])
    queue.flush()
    assert len(receiver.spans) == 2
    assert secret not in receiver.raw


def test_only_what_was_sampled(receiver: Collector, queue: SpanQueue, exposition: Exposition) -> None:
    Spans(queue, exposition).take([record(1, trace_sampled=False), record(2, parent_span_id="", calls=())])
    queue.flush()
    (span,) = receiver.spans
    assert span.parent_span_id == b"", "a trace that begins here"


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [(503, SpanStatus.STATUS_CODE_ERROR, "503"), (499, SpanStatus.STATUS_CODE_UNSET, None), (404, SpanStatus.STATUS_CODE_UNSET, None)],
)
def test_what_is_an_error(code: int, status: int, error: str | None, receiver: Collector, queue: SpanQueue, exposition: Exposition) -> None:
    cancelled = replace(CALL, result="cancelled", attempts=())
    Spans(queue, exposition).take([record(1, code=code, calls=(cancelled,), committed=None, backend="", endpoint="embeddings")])
    queue.flush()
    server, call = receiver.spans
    assert (server.status.code, attributes(server).get("error.type")) == (status, error)
    assert call.status.code == SpanStatus.STATUS_CODE_UNSET
    assert attributes(call)["error.type"] == "cancelled"
    assert call.name == "embeddings support"
    assert list(server.events) == []


def test_what_a_client_chose_is_bounded_and_bad_ids_are_counted(receiver: Collector, queue: SpanQueue, exposition: Exposition) -> None:
    spans = Spans(queue, exposition)
    spans.take([record(1, trace_id="no id"), record(2, model="m" * 100_000)])
    queue.flush()
    assert exposition.value("headgate_spans_dropped_total", "invalid") == 1
    assert receiver.spans[1].name == "chat " + "m" * MODEL_CHARS_MAX


def test_a_collector_that_refuses_costs_counted_spans(receiver: Collector, queue: SpanQueue, exposition: Exposition) -> None:
    receiver.status = 400
    Spans(queue, exposition).take([RECORD])
    queue.flush()
    assert exposition.value("headgate_spans_dropped_total", "export") == 3
    receiver.status = 200
    Spans(queue, exposition).take([RECORD])
    queue.flush()
    assert exposition.value("headgate_spans_exported_total") == 3


class Stuck(SpanExporter):
    """A collector that does not answer until it is let."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.sizes: list[int] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.release.wait(30)
        self.sizes.append(len(spans))
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None: ...


def test_what_waits_for_a_collector_is_bounded(monkeypatch: pytest.MonkeyPatch, exposition: Exposition) -> None:
    monkeypatch.setattr(tracing, "SPANS_WAITING_MAX", 10)
    monkeypatch.setattr(tracing, "BATCH_SPANS_MAX", 5)
    exporter = Stuck()
    queue = SpanQueue("", exposition, exporter=exporter)
    Spans(queue, exposition).take([record(n) for n in range(5)])  # three spans each
    assert exposition.value("headgate_spans_dropped_total", "queue_full") == 6
    exporter.release.set()
    queue.flush()
    assert sum(exporter.sizes) == 9
    Spans(queue, exposition).take([record(6)])
    queue.close()
    assert exposition.value("headgate_spans_exported_total") == 12, "closing sends what waits"
