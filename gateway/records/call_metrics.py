"""OpenTelemetry metrics of calls, made from records: those that the GenAI conventions name, beside Prometheus' own."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.metrics import Histogram, Meter
from opentelemetry.util.types import AttributeValue

from gateway.link.messages import CallRecord, ExchangeRecord
from gateway.records.spans import address, present
from gateway.telemetry import conventions
from gateway.telemetry.conventions import Durations

MODELS_MAX = 100
"""Names of models that are told apart, of those asked for and of those that answered: a route may take any, and a backend may
call itself what it likes."""
MODEL_CHARS_MAX = 200


class CallMetrics:
    """Counts every call of every record, sampled or not; one of the consumer's sinks."""

    def __init__(self, meter: Meter) -> None:
        self._duration = _histogram(meter, conventions.OPERATION_DURATION)
        self._first_chunk = _histogram(meter, conventions.FIRST_CHUNK)
        self._asked: set[str] = set()
        self._answered: set[str] = set()

    def take(self, records: Sequence[ExchangeRecord]) -> None:
        for record in records:
            for call in record.calls:
                attributes = self._attributes(record, call)
                self._duration.record(max(0.0, call.ended - call.started), attributes)
                if record.stream and call.first_content is not None:
                    self._first_chunk.record(max(0.0, call.first_content - call.started), attributes)

    def _attributes(self, record: ExchangeRecord, call: CallRecord) -> dict[str, AttributeValue]:
        host, port = address(call)
        return present(
            (
                (conventions.OPERATION_NAME, conventions.operation(record.endpoint)),
                (conventions.PROVIDER_NAME, conventions.PROVIDER),
                (conventions.REQUEST_MODEL, _bounded(record.model, self._asked)),
                (conventions.RESPONSE_MODEL, None if call.response_model is None else _bounded(call.response_model, self._answered)),
                (conventions.ERROR_TYPE, call.result if call.result != "ok" else None),
                (conventions.SERVER_ADDRESS, host),
                (conventions.SERVER_PORT, port),
                ("headgate.backend", call.backend),
                ("headgate.route", record.route or None),
            )
        )


def _histogram(meter: Meter, what: Durations) -> Histogram:
    return meter.create_histogram(what.name, "s", what.description, explicit_bucket_boundaries_advisory=what.bounds)


def _bounded(model: str, known: set[str]) -> str:
    model = model[:MODEL_CHARS_MAX]
    if model not in known:
        if len(known) >= MODELS_MAX:
            return conventions.OTHER
        known.add(model)
    return model
