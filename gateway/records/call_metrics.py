"""OpenTelemetry metrics of calls, made from records: those that the GenAI conventions name, beside Prometheus' own.

The histograms are kept here, not in the SDK's instruments, of which one `record` costs more than all the rest of a record in the
controller; they are given to the SDK's exporter in the SDK's shapes.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, final

from opentelemetry.sdk.environment_variables import OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE
from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, HistogramDataPoint, Metric
from opentelemetry.util.types import AttributeValue

from gateway.link.messages import CallRecord, ExchangeRecord
from gateway.records.spans import address, present
from gateway.telemetry import conventions
from gateway.telemetry.conventions import Durations

MODELS_MAX = 100
"""Names of models that are told apart, of those asked for and of those that answered: a route may take any, and a backend may
call itself what it likes."""
MODEL_CHARS_MAX = 200
SERIES_MAX = 2_000
"""Sets of attributes that are told apart, and ways to come to one; what is beyond is one more. The SDK's own limit."""
OVERFLOW: dict[str, AttributeValue] = {"otel.metric.overflow": True}
"""Source: OpenTelemetry's specification, Metrics SDK, cardinality limits."""

_Key: TypeAlias = tuple[str, str, str | None, str, str, str, str]
"""What the attributes are made from: endpoint, model asked for, model that answered, result, replica, backend, route."""


def delta_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the collector wants what is new since the last export instead of everything since the start."""
    return environment.get(OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE, "").strip().lower() in ("delta", "lowmemory")


@final
class _Seconds:
    """One histogram of one series."""

    __slots__ = ("bounds", "counts", "max", "min", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.min = float("inf")
        self.max = float("-inf")

    def observe(self, seconds: float) -> None:
        if seconds < 0.0:
            seconds = 0.0
        self.counts[bisect_left(self.bounds, seconds)] += 1  # a bound belongs to the bucket below it
        self.sum += seconds
        if seconds < self.min:
            self.min = seconds
        if seconds > self.max:
            self.max = seconds


@final
class _Series:
    """What is counted under one set of attributes."""

    __slots__ = ("attributes", "duration", "first_chunk")

    def __init__(self, attributes: dict[str, AttributeValue]) -> None:
        self.attributes = attributes
        self.duration = _Seconds(conventions.OPERATION_DURATION.bounds)
        self.first_chunk = _Seconds(conventions.FIRST_CHUNK.bounds)


class CallMetrics:
    """Counts every call of every record, sampled or not; one of the consumer's sinks. `delta`: each collection starts anew."""

    def __init__(self, *, delta: bool = False, clock: Callable[[], int] = time.time_ns) -> None:
        self._delta = delta
        self._clock = clock
        self._lock = threading.Lock()
        """Records come on one thread, and are collected on another."""
        self._since = clock()
        self._by_key: dict[_Key, _Series] = {}
        self._series: dict[frozenset[tuple[str, AttributeValue]], _Series] = {}
        """By attributes: two endpoints may be one operation, two URLs one address."""
        self._overflow = _Series(OVERFLOW)
        self._asked: set[str] = set()
        self._answered: set[str] = set()

    def take(self, records: Sequence[ExchangeRecord]) -> None:
        with self._lock:
            for record in records:
                calls = record.calls
                for audit in record.audits:
                    calls += audit.calls
                for call in calls:
                    series = self._series_of(record, call)
                    series.duration.observe(call.ended - call.started)
                    if record.stream and call.first_content is not None:
                        series.first_chunk.observe(call.first_content - call.started)

    def collect(self) -> list[Metric]:
        """The metrics that have something to say, for an exporter."""
        now = self._clock()
        with self._lock:
            every = [*self._series.values(), self._overflow]
            durations = self._points([(series, series.duration) for series in every], now)
            first_chunks = self._points([(series, series.first_chunk) for series in every], now)
            if self._delta:
                self._by_key, self._series, self._overflow, self._since = {}, {}, _Series(OVERFLOW), now
        metrics = (
            _metric(conventions.OPERATION_DURATION, durations, self._delta),
            _metric(conventions.FIRST_CHUNK, first_chunks, self._delta),
        )
        return [metric for metric in metrics if metric.data.data_points]

    def _points(self, histograms: Sequence[tuple[_Series, _Seconds]], now: int) -> list[HistogramDataPoint]:
        return [
            HistogramDataPoint(series.attributes, self._since, now, count, each.sum, tuple(each.counts), each.bounds, each.min, each.max)
            for series, each in histograms
            if (count := sum(each.counts))
        ]

    def _series_of(self, record: ExchangeRecord, call: CallRecord) -> _Series:
        asked, answered = record.model, call.response_model
        if asked not in self._asked:
            asked = _bounded(asked, self._asked)
        if answered is not None and answered not in self._answered:
            answered = _bounded(answered, self._answered)
        replica = call.attempts[-1].replica if call.attempts else ""
        key = (record.endpoint, asked, answered, call.result, replica, call.backend, record.route)
        return self._by_key.get(key) or self._made(key, call)

    def _made(self, key: _Key, call: CallRecord) -> _Series:
        if len(self._by_key) >= SERIES_MAX:
            return self._overflow
        endpoint, asked, answered, result, _, backend, route = key
        host, port = address(call)
        attributes = present(
            (
                (conventions.OPERATION_NAME, conventions.operation(endpoint)),
                (conventions.PROVIDER_NAME, conventions.PROVIDER),
                (conventions.REQUEST_MODEL, asked),
                (conventions.RESPONSE_MODEL, answered),
                (conventions.ERROR_TYPE, result if result != "ok" else None),
                (conventions.SERVER_ADDRESS, host),
                (conventions.SERVER_PORT, port),
                ("headgate.backend", backend),
                ("headgate.route", route or None),
            )
        )
        series = self._by_key[key] = self._series.setdefault(frozenset(attributes.items()), _Series(attributes))
        return series


def _metric(what: Durations, points: Sequence[HistogramDataPoint], delta: bool) -> Metric:
    temporality = AggregationTemporality.DELTA if delta else AggregationTemporality.CUMULATIVE
    return Metric(what.name, what.description, "s", Histogram(points, temporality))


def _bounded(model: str, known: set[str]) -> str:
    model = model[:MODEL_CHARS_MAX]
    if model not in known:
        if len(known) >= MODELS_MAX:
            return conventions.OTHER
        known.add(model)
    return model
