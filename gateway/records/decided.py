"""What a cascade decided of a request, read off its record."""

from __future__ import annotations

from typing import Literal, TypeAlias

from gateway.link.messages import AuditRecord, ExchangeRecord

ACCEPTED, DEFERRED = "audit_accepted", "audit_deferred"
"""The purposes of audits (`policies.plan.Mirror`)."""
UNRELATED = frozenset({"busy", "stopped"})
"""Why an audit was not made, where that says nothing of the two answers: as if the request had not been sampled."""

Decided: TypeAlias = Literal["accepted", "deferred", "low_confidence"]
"""`accepted`: a stage's reply was good enough. `deferred`: the last stage answered. `low_confidence`: a reply was served that was judged
not good enough, since nothing better was to be had; a calibration promises nothing of those."""


def decided(record: ExchangeRecord) -> Decided | None:
    """None where no cascade had its say, or the client got no whole answer: it failed, or the client left before its end."""
    found = record.findings
    if found is None or not found.judgements or not record.backend or record.code >= 400:
        return None
    if found.low_confidence:
        return "low_confidence"
    return "deferred" if all(judgement.deferred for judgement in found.judgements) else "accepted"


def audit_of(record: ExchangeRecord, purpose: str, backend: str = "") -> AuditRecord | None:
    """The audit of that purpose (and of that backend's reply), None where there was none."""
    for audit in record.audits:
        if audit.purpose == purpose and backend in ("", audit.backend):
            return audit
    return None
