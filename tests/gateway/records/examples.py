"""Records to test with."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from gateway.link.messages import (
    AssessmentRecord,
    AttemptRecord,
    AuditRecord,
    CallRecord,
    Content,
    ExchangeRecord,
    Findings,
    JudgementRecord,
    ScoresRecord,
)

CALL = CallRecord(
    backend="small",
    span_id="00000000000000a1",
    started=0.0002,
    head=0.180,
    first_content=0.220,
    ended=1.5,
    result="ok",
    status=200,
    held=0.221,
    attempts=(AttemptRecord("http://vllm-a:8000", 0.0002, 0.002, "connect"), AttemptRecord("http://vllm-b:8000", 0.102, 1.5, "ok")),
    input_tokens=120,
    output_tokens=48,
    finish_reasons=("stop",),
    response_model="small-2026",
    cost=0.00031,
    currency="USD",
)
FAILED = CallRecord(
    backend="big",
    span_id="00000000000000a0",
    started=0.0001,
    head=None,
    first_content=None,
    ended=0.0002,
    result="breaker_open",
    message="the breaker of every replica is open",
)
RECORD = ExchangeRecord(
    exchange_id="ex-1",
    request_id="req-1",
    trace_id="0af7651916cd43dd8448eb211c80319c",
    span_id="b7ad6b7169203331",
    parent_span_id="00f067aa0ba902b7",
    trace_sampled=True,
    policy_version="3f9c2a",
    started_at=1_780_000_000.25,
    duration=1.5004,
    endpoint="chat",
    model="support",
    stream=True,
    route="support",
    key="acme-prod",
    unit="user-7",
    segments=(("tenant", "acme"), ("prompt_length", "<200")),
    reason="failover",
    backend="small",
    code=200,
    error="",
    committed=0.2215,
    overhead=0.0006,
    bytes_in=812,
    bytes_out=9_120,
    calls=(FAILED, CALL),
)


def record(number: int = 1, **changes: Any) -> ExchangeRecord:
    """The `number`th of a series that is a second apart."""
    return replace(RECORD, **{"exchange_id": f"ex-{number}", "started_at": 1_780_000_000.0 + number, **changes})


def content(request: bytes, response: bytes = b"", *, truncated: bool = False) -> Content:
    return Content(request, response, truncated)


DEFERRED = replace(
    RECORD,
    reason="low_confidence",
    backend="big",
    calls=(
        replace(CALL, result="cancelled", scores=ScoresRecord("ok", 24, -0.8, -3.5, (-2.0, -1.0, -0.5), entropy=0.75)),
        replace(FAILED, result="ok", message=""),
    ),
    findings=Findings(
        (JudgementRecord("tiny", True, "audit"), JudgementRecord("small", True, "mean_logprob", 0, -0.8, -0.35, "ok")),
        ood="false",
        assessment=AssessmentRecord("ok", 1.25, -7.5),
    ),
)
"""A cascade at work: a guard let it pass, one stage was not asked, the next one deferred."""
AUDITED = replace(
    DEFERRED,
    audits=(
        AuditRecord("audit_deferred", "small", True),
        AuditRecord("audit_accepted", "big", False, call=replace(CALL, backend="big", result="ok")),
        AuditRecord("audit_accepted", "big", None, "too_long"),
        AuditRecord("audit_accepted", "huge", True, "", replace(CALL, backend="huge", started=0.3), (FAILED,)),
    ),
)
"""Audits of every kind, more of them than one exchange has."""
