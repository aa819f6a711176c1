"""Metrics of calls as OpenTelemetry's own reader gets them."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

from gateway.link.messages import ExchangeRecord
from gateway.records.call_metrics import MODELS_MAX, CallMetrics
from tests.gateway.records.examples import CALL, FAILED, record

DURATION, FIRST_CHUNK = "gen_ai.client.operation.duration", "gen_ai.client.operation.time_to_first_chunk"


def measured(*records: ExchangeRecord) -> dict[str, list[HistogramDataPoint]]:
    """The points of each metric after these records."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    CallMetrics(provider.get_meter("headgate")).take(records)
    found: Any = reader.get_metrics_data()
    provider.shutdown()
    metrics = (
        [metric for resource in found.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics] if found else []
    )
    assert all(metric.unit == "s" for metric in metrics)
    return {metric.name: list(metric.data.data_points) for metric in metrics}


def test_each_call_is_measured_with_who_was_asked_and_what_came_of_it() -> None:
    found = measured(record(stream=True, trace_sampled=False, calls=(FAILED, CALL)), record(stream=True, calls=(CALL,)))
    failed, served = sorted(found[DURATION], key=lambda point: point.count)
    assert (failed.count, served.count) == (1, 2)
    assert failed.sum == pytest.approx(FAILED.ended - FAILED.started)
    assert served.sum == pytest.approx(2 * (CALL.ended - CALL.started))
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": record().model,
        "gen_ai.response.model": CALL.response_model,
        "server.address": "vllm-b",
        "server.port": 8000,
        "headgate.backend": CALL.backend,
        "headgate.route": record().route,
    }
    assert served.attributes is not None
    assert failed.attributes is not None
    assert {name: served.attributes[name] for name in expected} == expected
    assert "error.type" not in served.attributes
    assert failed.attributes["error.type"] == FAILED.result
    (first,) = found[FIRST_CHUNK]
    assert CALL.first_content is not None
    assert (first.count, first.sum) == (2, pytest.approx(2 * (CALL.first_content - CALL.started)))


def test_only_streams_have_a_first_chunk_and_refusals_no_call() -> None:
    assert set(measured(record(stream=False, calls=(CALL,)))) == {DURATION}
    assert measured(record(calls=())) == {}


def test_models_beyond_the_limit_are_one() -> None:
    records = [record(model=f"model-{n}", calls=(replace(CALL, response_model=f"answer-{n}"),)) for n in range(MODELS_MAX + 50)]
    points = measured(*records)[DURATION]
    assert len(points) == MODELS_MAX + 1
    (rest,) = [point for point in points if point.count > 1]
    assert rest.attributes is not None
    assert rest.count == 50
    assert {rest.attributes[f"gen_ai.{side}.model"] for side in ("request", "response")} == {"_OTHER"}
    (long,) = measured(record(model="m" * 10_000, calls=(CALL,)))[DURATION]
    assert long.attributes is not None
    assert len(str(long.attributes["gen_ai.request.model"])) == 200
