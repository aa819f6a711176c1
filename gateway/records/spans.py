"""The spans of an exchange, made from its record: nothing runs for them while a request does.

They carry no prompt, no answer and no message of a backend's, which may repeat either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from gateway.link.messages import CallRecord, ExchangeRecord
from gateway.telemetry import conventions
from gateway.telemetry.metrics import Exposition
from gateway.telemetry.tracing import SpanQueue

MODEL_CHARS_MAX = 200
"""Of the model's name: the client chose it."""

_PATHS = {"chat": "/v1/chat/completions"}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("headgate")


class Spans:
    """Makes spans of the sampled among the records and queues them; one of the consumer's sinks."""

    def __init__(self, queue: SpanQueue, exposition: Exposition) -> None:
        self._queue = queue
        self._invalid = exposition.counter("headgate_spans_dropped_total", "invalid")

    def take(self, records: Sequence[ExchangeRecord]) -> None:
        for record in records:
            if record.trace_sampled:
                try:
                    self._queue.hand_over(spans_of(record, self._queue.resource))
                except (ValueError, OverflowError):  # ids that are none
                    self._invalid.inc()


def spans_of(record: ExchangeRecord, resource: Resource) -> list[ReadableSpan]:
    """One SERVER span for the exchange, below the client's; one CLIENT span for each call, whose id the backend was given;
    that of a call for an audit may end after the exchange's."""
    server = _context(record, record.span_id)
    parent = _context(record, record.parent_span_id, remote=True) if record.parent_span_id else None
    path = _PATHS.get(record.endpoint, f"/v1/{record.endpoint}")
    spans = [
        ReadableSpan(
            f"POST {path}",
            server,
            parent,
            resource,
            _server_attributes(record, path),
            _server_events(record),
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR) if record.code >= 500 else Status(),
            start_time=_ns(record, 0.0),
            end_time=_ns(record, record.duration),
            instrumentation_scope=_SCOPE,
        )
    ]
    for number, call in enumerate(record.calls):
        spans.append(_call_span(record, call, server, resource, _call_attributes(record, call), _call_events(record, number, call)))
    for audit in record.audits:
        for call in audit.calls:
            attributes = {**_call_attributes(record, call), "headgate.purpose": audit.purpose}
            spans.append(_call_span(record, call, server, resource, attributes, _call_events(record, None, call)))
    return spans


def _call_span(
    record: ExchangeRecord,
    call: CallRecord,
    server: SpanContext,
    resource: Resource,
    attributes: dict[str, AttributeValue],
    events: tuple[Event, ...],
) -> ReadableSpan:
    failed = call.result not in ("ok", "cancelled")
    return ReadableSpan(
        f"{conventions.operation(record.endpoint)} {record.model[:MODEL_CHARS_MAX]}",
        _context(record, call.span_id),
        server,
        resource,
        attributes,
        events,
        kind=SpanKind.CLIENT,
        status=Status(StatusCode.ERROR, call.result) if failed else Status(),
        start_time=_ns(record, call.started),
        end_time=_ns(record, max(call.started, call.ended)),
        instrumentation_scope=_SCOPE,
    )


def _context(record: ExchangeRecord, span_id: str, *, remote: bool = False) -> SpanContext:
    return SpanContext(int(record.trace_id, 16), int(span_id, 16), is_remote=remote, trace_flags=_SAMPLED)


def _ns(record: ExchangeRecord, seconds: float) -> int:
    return round((record.started_at + seconds) * 1e9)


def _server_attributes(record: ExchangeRecord, path: str) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue | None] = {
        conventions.HTTP_METHOD: "POST",
        conventions.HTTP_ROUTE: path,
        conventions.HTTP_STATUS: record.code,
        conventions.ERROR_TYPE: str(record.code) if record.code >= 500 else None,
        "headgate.exchange_id": record.exchange_id,
        "headgate.request_id": record.request_id,
        "headgate.route": record.route or None,
        "headgate.backend": record.backend or None,
        "headgate.reason": record.reason or None,
        "headgate.policy_version": record.policy_version,
        "headgate.overhead": record.overhead,
        "headgate.client_left": True if record.code == 499 else None,
        **{f"headgate.segment.{segment}": value for segment, value in record.segments},
    }
    return present(attributes.items())


def _call_attributes(record: ExchangeRecord, call: CallRecord) -> dict[str, AttributeValue]:
    host, port = address(call)
    failed = call.result != "ok"
    return present(
        (
            (conventions.OPERATION_NAME, conventions.operation(record.endpoint)),
            (conventions.PROVIDER_NAME, conventions.PROVIDER),
            (conventions.REQUEST_MODEL, record.model[:MODEL_CHARS_MAX]),
            (conventions.REQUEST_STREAM, record.stream),
            (conventions.RESPONSE_MODEL, call.response_model),
            (conventions.FINISH_REASONS, call.finish_reasons or None),
            (conventions.INPUT_TOKENS, call.input_tokens),
            (conventions.OUTPUT_TOKENS, call.output_tokens),
            (
                conventions.TIME_TO_FIRST_CHUNK,
                call.first_content - call.started if record.stream and call.first_content is not None else None,
            ),
            (conventions.HTTP_STATUS, call.status),
            (conventions.ERROR_TYPE, call.result if failed else None),
            (conventions.SERVER_ADDRESS, host),
            (conventions.SERVER_PORT, port),
            ("headgate.backend", call.backend),
            ("headgate.cost", call.cost),
            ("headgate.currency", call.currency if call.cost is not None else None),
        )
    )


def present(attributes: Iterable[tuple[str, AttributeValue | None]]) -> dict[str, AttributeValue]:
    """Without those that are None."""
    return {name: value for name, value in attributes if value is not None}


def address(call: CallRecord) -> tuple[str | None, int | None]:
    """Of the replica that was tried last."""
    try:
        url = urlsplit(call.attempts[-1].replica)
        return url.hostname, url.port
    except (IndexError, ValueError):
        return None, None


def _server_events(record: ExchangeRecord) -> tuple[Event, ...]:
    events: list[Event] = []
    if record.findings is not None and record.findings.ood:
        events.append(Event("assess", {"headgate.ood": record.findings.ood}, _ns(record, 0.0)))
    if record.committed is not None:
        events.append(Event("commit", {"headgate.backend": record.backend}, _ns(record, record.committed)))
    for audit in record.audits:
        result = audit.why if audit.agreed is None else "agreed" if audit.agreed else "disagreed"
        attributes = {"headgate.purpose": audit.purpose, "headgate.backend": audit.backend, "headgate.result": result}
        events.append(Event("audit", attributes, _ns(record, record.duration)))
    return tuple(events)


def _call_events(record: ExchangeRecord, number: int | None, call: CallRecord) -> tuple[Event, ...]:
    """`number`: which call of the exchange; None: one for an audit."""
    events = [
        Event("retry", {"headgate.replica": attempt.replica, conventions.ERROR_TYPE: attempt.result}, _ns(record, attempt.ended))
        for attempt in call.attempts[:-1]
    ]
    if call.held is not None:
        events.append(Event("hold", None, _ns(record, call.held)))
        judgements = record.findings.judgements if record.findings is not None else ()
        events += [
            Event("defer", {"headgate.by": judgement.by}, _ns(record, call.held))
            for judgement in judgements
            if number is not None and judgement.call == number and judgement.deferred
        ]
    return tuple(events)
