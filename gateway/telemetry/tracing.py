"""Sends OpenTelemetry spans and metrics to a collector, in the controller: a bounded queue, threads, OTLP over HTTP.

They are made from records, in `records.spans` and `records.call_metrics`, with the ids and times that the record has.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_METRIC_EXPORT_INTERVAL
from opentelemetry.sdk.metrics.export import Metric, MetricExporter, MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from gateway.telemetry.metrics import Exposition

log = logging.getLogger(__name__)

SPANS_WAITING_MAX = 8_192
"""Handed over and not yet sent; more are dropped and counted."""
BATCH_SPANS_MAX = 512
BATCH_EVERY_MS = 1_000
METRICS_EVERY_S = 60.0
EXPORT_TIMEOUT_S = 10


def resource() -> Resource:
    """Who is telling."""
    return Resource.create({"service.name": "headgate"})


class MetricsExport:
    """Sends what `collect` gives to the collector at `endpoint` (`http://collector:4318/v1/metrics`), on a thread of its own, every
    `OTEL_METRIC_EXPORT_INTERVAL` milliseconds: 60,000 unless the environment says otherwise.

    The SDK's own instruments are not used: one `record` of theirs costs as much as storing a record does. Its data classes and its
    exporter are; what is exported stays the same."""

    def __init__(self, endpoint: str, collect: Callable[[], Sequence[Metric]], *, exporter: MetricExporter | None = None) -> None:
        self._collect = collect
        self._resource = resource()
        self._exporter = exporter or OTLPMetricExporter(endpoint, timeout=EXPORT_TIMEOUT_S)
        self._interval_s = _interval_s(os.environ.get(OTEL_METRIC_EXPORT_INTERVAL, ""))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="export metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send the last ones and stop. Blocks, for a few times `EXPORT_TIMEOUT_S` at the most: call it on a thread."""
        self._stopping.set()
        self._thread.join(3 * EXPORT_TIMEOUT_S)
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            self._export()
        self._export()

    def _export(self) -> None:
        try:
            if metrics := self._collect():
                scope = ScopeMetrics(InstrumentationScope("headgate"), metrics, "")
                self._exporter.export(MetricsData([ResourceMetrics(self._resource, [scope], "")]))
        except Exception:
            log.exception("metrics could not be exported")


def _interval_s(milliseconds: str) -> float:
    """Seconds; the default where it is no number, or none that can be waited for."""
    try:
        seconds = float(milliseconds) / 1000
    except ValueError:
        return METRICS_EVERY_S
    return seconds if 0 < seconds <= threading.TIMEOUT_MAX else METRICS_EVERY_S


class SpanQueue:
    """What waits for the collector at `endpoint` (`http://collector:4318/v1/traces`)."""

    def __init__(self, endpoint: str, exposition: Exposition, *, exporter: SpanExporter | None = None) -> None:
        self.resource = resource()
        self._exporter = _CountingExporter(exporter or OTLPSpanExporter(endpoint, timeout=EXPORT_TIMEOUT_S), exposition)
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=SPANS_WAITING_MAX,
            schedule_delay_millis=BATCH_EVERY_MS,
            max_export_batch_size=BATCH_SPANS_MAX,
        )
        self._handed_over = 0
        self._queue_full = exposition.counter("headgate_spans_dropped_total", "queue_full")

    def hand_over(self, spans: Sequence[ReadableSpan]) -> None:
        """Queue all of `spans`, or drop and count them. Never waits; one thread at a time."""
        if self._handed_over - self._exporter.finished + len(spans) > SPANS_WAITING_MAX:
            self._queue_full.inc(len(spans))
            return
        self._handed_over += len(spans)
        for span in spans:
            self._processor.on_end(span)

    def flush(self) -> None:
        """Send what waits. Blocks: call it on a thread."""
        self._processor.force_flush()

    def close(self) -> None:
        """Send what waits and stop. Blocks, for a few times `EXPORT_TIMEOUT_S` at the most: call it on a thread."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]


class _CountingExporter(SpanExporter):
    def __init__(self, exporter: SpanExporter, exposition: Exposition) -> None:
        self._exporter = exporter
        self._exported = exposition.counter("headgate_spans_exported_total")
        self._failed = exposition.counter("headgate_spans_dropped_total", "export")
        self.finished = 0
        """Spans sent or lost."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self.finished += len(spans)
            (self._exported if result is SpanExportResult.SUCCESS else self._failed).inc(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
