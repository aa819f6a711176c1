"""Metrics of calls as OpenTelemetry's own exporter gets them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace
from opentelemetry.sdk.environment_variables import OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader, Metric

from gateway.link.messages import AttemptRecord, AuditRecord, ExchangeRecord
from gateway.records import call_metrics
from gateway.records.call_metrics import MODELS_MAX, OVERFLOW, CallMetrics, delta_wanted
from gateway.telemetry import conventions
from tests.gateway.records.examples import CALL, FAILED, record

DURATION, FIRST_CHUNK = "gen_ai.client.operation.duration", "gen_ai.client.operation.time_to_first_chunk"


def points(metrics: Sequence[Metric]) -> dict[str, list[Any]]:
    """The points of each metric."""
    assert all(metric.unit == "s" for metric in metrics)
    return {metric.name: list(metric.data.data_points) for metric in metrics}


def measured(*records: ExchangeRecord) -> dict[str, list[Any]]:
    """The points of each metric after these records."""
    calls = CallMetrics()
    calls.take(records)
    return points(calls.collect())


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


def test_every_call_for_an_audit_is_one() -> None:
    audits = (
        AuditRecord("audit_accepted", "big", True, "", replace(CALL, backend="big"), (replace(FAILED, backend="down"),)),
        AuditRecord("audit_deferred", "tiny", None, "busy"),
    )
    points = measured(record(calls=(CALL,), audits=audits))[DURATION]
    assert sorted(str((point.attributes or {})["headgate.backend"]) for point in points) == ["big", "down", "small"]


def test_models_beyond_the_limit_are_one() -> None:
    records = [record(model=f"model-{n}", calls=(replace(CALL, response_model=f"answer-{n}"),)) for n in range(MODELS_MAX + 50)]
    found = measured(*records)[DURATION]
    assert len(found) == MODELS_MAX + 1
    (rest,) = [point for point in found if point.count > 1]
    assert rest.attributes is not None
    assert rest.count == 50
    assert {rest.attributes[f"gen_ai.{side}.model"] for side in ("request", "response")} == {"_OTHER"}
    (long,) = measured(record(model="m" * 10_000, calls=(CALL,)))[DURATION]
    assert long.attributes is not None
    assert len(str(long.attributes["gen_ai.request.model"])) == 200


def test_the_points_are_those_that_the_sdks_instruments_would_make() -> None:
    durations = random.Random(7)
    seconds = [durations.choice((*conventions.OPERATION_DURATION.bounds, 0.0, 200.0, durations.expovariate(1.0))) for _ in range(2_000)]
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    what = conventions.OPERATION_DURATION
    instrument = provider.get_meter("headgate").create_histogram(
        what.name, "s", what.description, explicit_bucket_boundaries_advisory=what.bounds
    )
    for each in seconds:
        instrument.record(each)
    theirs: Any = reader.get_metrics_data()
    provider.shutdown()
    ((expected,),) = points(theirs.resource_metrics[0].scope_metrics[0].metrics).values()
    (found,) = measured(*[record(calls=(replace(CALL, started=0.0, ended=each),)) for each in seconds])[DURATION]
    assert (found.count, list(found.bucket_counts), list(found.explicit_bounds)) == (
        expected.count,
        list(expected.bucket_counts),
        list(expected.explicit_bounds),
    )
    assert (found.sum, found.min, found.max) == (pytest.approx(expected.sum), expected.min, expected.max)


def test_what_has_the_same_attributes_is_one_point() -> None:
    same = (AttemptRecord("http://vllm-b:8000/other", 0.0, 1.0, "ok"),)
    (found,) = measured(
        record(endpoint="chat", calls=(CALL,)),
        record(endpoint="responses", calls=(CALL,)),
        record(endpoint="chat", calls=(replace(CALL, attempts=same),)),
        record(endpoint="chat", calls=(replace(CALL, ended=-5.0),)),
    )[DURATION]
    assert (found.count, found.min) == (4, 0.0)


def test_sets_of_attributes_beyond_the_limit_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_metrics, "SERIES_MAX", 3)
    found = measured(*[record(route=f"route-{n}", calls=(CALL,)) for n in (0, 1, 2, 3, 4, 0)])[DURATION]
    assert [(point.count, point.attributes == OVERFLOW) for point in found] == [(2, False), (1, False), (1, False), (2, True)]


@pytest.mark.parametrize("delta", [False, True])
def test_each_collection_says_everything_or_what_is_new(delta: bool) -> None:
    times = iter((10, 20, 30, 40))
    calls = CallMetrics(delta=delta, clock=lambda: next(times))
    calls.take([record(calls=(CALL,)), record(calls=(CALL,))])
    calls.collect()
    calls.take([record(calls=(CALL,))])
    (metric, _) = calls.collect()
    (point,) = metric.data.data_points
    kind = AggregationTemporality.DELTA if delta else AggregationTemporality.CUMULATIVE
    assert (point.count, point.start_time_unix_nano, point.time_unix_nano) == ((1, 20, 30) if delta else (3, 10, 30))
    assert metric.data.aggregation_temporality == kind  # type: ignore[union-attr]
    assert bool(calls.collect()) is not delta


def test_the_environment_says_which() -> None:
    assert not delta_wanted({})
    assert not delta_wanted({OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE: "cumulative"})
    assert delta_wanted({OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE: "DELTA"})
