"""Metrics on their way to a collector."""

from __future__ import annotations

import threading

import pytest
from opentelemetry.sdk.environment_variables import OTEL_METRIC_EXPORT_INTERVAL
from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, HistogramDataPoint, Metric

from gateway.telemetry import tracing
from gateway.telemetry.tracing import METRICS_EVERY_S, MetricsExport
from tests.collector import collecting

POINT = HistogramDataPoint({"headgate.backend": "small"}, 10, 20, 3, 1.5, (1, 2), (0.5,), 0.25, 0.75)
METRIC = Metric("took", "How long.", "s", Histogram([POINT], AggregationTemporality.CUMULATIVE))


def test_what_is_collected_arrives_and_the_last_of_it_at_the_end() -> None:
    with collecting() as collector:
        export = MetricsExport(collector.endpoint.replace("traces", "metrics"), lambda: [METRIC])
        assert collector.metrics == {}, "not before a minute"
        export.close()
        (resource,) = collector.metrics_requests[-1].resource_metrics
        assert "headgate" in {each.value.string_value for each in resource.resource.attributes if each.key == "service.name"}
        (point,) = collector.metrics["took"].histogram.data_points
        assert (point.count, point.sum, list(point.bucket_counts), list(point.explicit_bounds)) == (3, 1.5, [1, 2], [0.5])
        assert (point.start_time_unix_nano, point.time_unix_nano, point.min, point.max) == (10, 20, 0.25, 0.75)


def test_a_failure_stops_nothing_and_nothing_collected_is_nothing_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OTEL_METRIC_EXPORT_INTERVAL, "1")
    times, done = 0, threading.Event()

    def collect() -> list[Metric]:
        nonlocal times
        times += 1
        if times == 1:
            raise RuntimeError("a bug")
        if times >= 3:
            done.set()
        return []

    with collecting() as collector:
        export = MetricsExport(collector.endpoint.replace("traces", "metrics"), collect)
        assert done.wait(10)
        export.close()
        assert collector.metrics_requests == []


@pytest.mark.parametrize(
    ("said", "seconds"), [("", METRICS_EVERY_S), ("soon", METRICS_EVERY_S), ("0", METRICS_EVERY_S), ("inf", METRICS_EVERY_S), ("200", 0.2)]
)
def test_the_interval_is_the_environments_where_it_is_one(said: str, seconds: float) -> None:
    assert tracing._interval_s(said) == seconds
