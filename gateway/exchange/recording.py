"""Makes the record of an exchange: what was asked, each call with its times, what was served and why."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, final

from msgspec.structs import replace

from gateway.exchange.verdicts import count_verdict, with_findings, with_scores
from gateway.link.messages import AttemptRecord, AuditRecord, CallRecord, Content, ExchangeRecord
from gateway.protocol.stream import Usage
from gateway.upstream.base import Attempt

if TYPE_CHECKING:
    from gateway.exchange.executor import Exchange
    from gateway.exchange.leg import Leg

CONTENT_BYTES_MAX: Final = 256 * 1024
"""Of the request and of the response, each, that a record keeps."""


@final
class ContentKeeper:
    """Keeps what was asked and served, bounded, where the policy stores content. Redaction is the controller's."""

    __slots__ = ("_kept", "_request", "_room", "_truncated")

    def __init__(self, request: bytes) -> None:
        self._request = request[:CONTENT_BYTES_MAX]
        self._truncated = len(request) > CONTENT_BYTES_MAX
        self._kept: list[bytes] = []
        self._room = CONTENT_BYTES_MAX

    def response(self, data: bytes) -> None:
        if len(data) > self._room:
            data = data[: self._room]
            self._truncated = True
        if data:
            self._kept.append(data)
            self._room -= len(data)

    def content(self) -> Content:
        return Content(self._request, b"".join(self._kept), self._truncated)


def count(exchange: Exchange, now: float, overhead: float) -> None:
    """Count an exchange that is over in its route's measures."""
    order = exchange.order
    measures = order.measures
    started = order.started
    measures.request(exchange.reason, exchange.code)
    measures.duration.observe(now - started)
    measures.overhead.observe(overhead)
    for label in order.segments:
        measures.segment(label)
    if exchange.verdict is not None:
        count_verdict(exchange, exchange.verdict, now)
    answer, committed_at = exchange.answer, exchange.committed_at
    if committed_at is not None and answer is not None:
        if exchange.body.stream:
            measures.first_token.observe(committed_at - started)
        if answer.head_at is not None:
            held = committed_at - answer.head_at
            measures.hold.observe(held if held > 0.0 else 0.0)


def exchange_record(exchange: Exchange, now: float, overhead: float, audits: tuple[AuditRecord, ...] = ()) -> ExchangeRecord:
    """The record, and with it the count of tokens and cost: every call costs, also one whose answer nobody got. `now` is when the
    exchange was over."""
    order = exchange.order
    start = order.started
    answer = exchange.answer
    trace = order.trace
    body = exchange.body
    duration = now - start
    legs = exchange.legs
    record = ExchangeRecord(
        order.exchange_id,
        order.request_id,
        trace.trace_id,
        trace.span_id,
        trace.parent_span_id,
        trace.sampled,
        order.policy_version,
        time.time() - duration,
        duration,
        body.endpoint,
        body.model,
        body.stream,
        order.route,
        order.key,
        order.unit,
        order.segments,
        exchange.reason,
        "" if answer is None else answer.target.backend.name,
        exchange.code,
        exchange.error,
        None if exchange.committed_at is None else exchange.committed_at - start,
        overhead,
        body.size,
        exchange.bytes_out,
        (_call_record(exchange, legs[0], start, now),)
        if len(legs) == 1
        else tuple([_call_record(exchange, leg, start, now) for leg in legs]),
        None if order.content is None else order.content.content(),
        exchange.code == 499,
    )
    if exchange.verdict is not None:
        record = with_findings(record, exchange.verdict)
    if audits:
        record = replace(record, audits=audits, started_at=record.started_at - (exchange.now() - now))
    return record


def _call_record(exchange: Exchange, leg: Leg, start: float, now: float) -> CallRecord:
    usage: Usage | None = None
    model: str | None = None
    finish: tuple[str, ...] = ()
    if leg.reader is not None:
        usage, model, finish = leg.reader.usage, leg.reader.model, leg.reader.finish_reasons
    elif leg.facts is not None:
        usage, model, finish = leg.facts.usage, leg.facts.model, leg.facts.finish_reasons
    cost: float | None = None
    backend = leg.target.backend
    measures = exchange.order.measures.backends[backend.name]
    if usage is not None:
        cost = measures.count(usage.input, usage.output)
    error = leg.error
    attempts = leg.call.attempts if hasattr(leg, "call") else ()
    record = CallRecord(
        backend.name,
        leg.span_id,
        leg.started_at - start,
        None if leg.head_at is None else leg.head_at - start,
        None if leg.content_at is None else leg.content_at - start,
        (leg.ended_at or now) - start,
        "ok" if error is None else error.kind,
        "" if error is None else error.message,
        leg.status,
        None if leg.judged_at is None else leg.judged_at - start,
        (_attempt_record(attempts[0], start, now),) if len(attempts) == 1 else tuple([_attempt_record(a, start, now) for a in attempts]),
        None if usage is None else usage.input,
        None if usage is None else usage.output,
        finish,
        model,
        cost,
        measures.currency,
    )
    return record if leg.evidence is None else with_scores(record, leg.scores)


def _attempt_record(attempt: Attempt, start: float, now: float) -> AttemptRecord:
    """An attempt's clock may be read a moment before the exchange's: no time is negative."""
    started, ended = attempt.started - start, (attempt.ended or now) - start
    return AttemptRecord(attempt.replica, started if started > 0.0 else 0.0, ended if ended > 0.0 else 0.0, attempt.result)
