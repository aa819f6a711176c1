"""The record of a request that was refused before it had a plan."""

from __future__ import annotations

import time

from gateway.errors import ApiError
from gateway.link.messages import ExchangeRecord
from gateway.protocol.body import Body
from gateway.telemetry.trace_context import TraceContext
from gateway.wire.request import Request
from policies import schema
from policies.plan import Endpoint


def refusal_record(
    problem: ApiError,
    request: Request,
    body: Body | None,
    endpoint: Endpoint,
    key: schema.Key | None,
    version: str,
    exchange_id: str,
    request_id: str,
    trace: TraceContext,
    now: float,
    bytes_out: int,
) -> ExchangeRecord:
    """Only for requests with a right to ask: a flood of wrong keys must not push what matters out of the store."""
    duration = now - request.started
    return ExchangeRecord(
        exchange_id=exchange_id,
        request_id=request_id,
        trace_id=trace.trace_id,
        span_id=trace.span_id,
        parent_span_id=trace.parent_span_id,
        trace_sampled=trace.sampled,
        policy_version=version,
        started_at=time.time() - duration,
        duration=duration,
        endpoint=endpoint,
        model="" if body is None else body.model[:256],
        stream=body is not None and body.stream,
        route="",
        key="" if key is None else key.name,
        unit="",
        segments=(),
        reason="refused",
        backend="",
        code=problem.status,
        error=problem.message,
        committed=None,
        overhead=duration,
        bytes_in=len(request.body),
        bytes_out=bytes_out,
        calls=(),
    )
