"""Makes a record fit to be kept: its content only as the policy says, redacted."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from gateway.link.messages import AuditRecord, CallRecord, ExchangeRecord
from gateway.records.content import prepared
from gateway.records.redact import Redactor, SlowTextError
from policies.hashing import CONTENT_RULE, sample
from policies.schema import Content

log = logging.getLogger(__name__)

PSEUDONYM_CHARS = 16


class Preparation:
    """Applies `records.content`, its rules also to what else a client or a backend wrote: messages of errors, and the unit. Keeps
    the rules compiled while the policy's stay the same."""

    def __init__(self) -> None:
        self._rules: tuple[str, ...] = ()
        self._redactor: Redactor | None = Redactor(())

    def prepare(self, records: Sequence[ExchangeRecord], policy: Content) -> tuple[list[ExchangeRecord], dict[str, int]]:
        """The records as they may be kept, and how many lost their content (or a message) by why: when in doubt, it is not
        kept."""
        if policy.redact != self._rules:
            self._redactor = _compiled(policy.redact)
            self._rules = policy.redact
        lost: dict[str, int] = {}
        fit: list[ExchangeRecord] = []
        as_they_are = self._redactor is not None and not self._redactor.active
        for record in records:
            if as_they_are and record.content is None:  # nothing to decide: most records, unless the policy keeps content
                fit.append(record)
                continue
            if not policy.store or not sample(record.exchange_id, CONTENT_RULE, policy.sample_percent):
                record = replace(record, content=None) if record.content is not None else record
            try:
                fit.append(self._redacted(record))
                continue
            except SlowTextError:
                why = "slow"
            except ValueError:
                why = "rule"
            except Exception:
                log.exception("a record could not be redacted", extra={"exchange": record.exchange_id})
                why = "error"
            lost[why] = lost.get(why, 0) + 1
            calls = tuple([replace(call, message="") for call in record.calls])
            audits = _audits_with(record, lambda message: "")
            fit.append(replace(record, content=None, error="", unit=pseudonym(record.unit), calls=calls, audits=audits))
        return fit, lost

    def _redacted(self, record: ExchangeRecord) -> ExchangeRecord:
        """With its content, and the messages of errors, in which backends like to repeat what they were asked."""
        redactor = self._redactor
        if redactor is None:
            raise ValueError("a redaction rule that cannot be used")
        content = None if record.content is None else prepared(record.content, redactor)
        if not redactor.active:
            return record if content is None else replace(record, content=content)
        deadline = redactor.deadline()
        calls: tuple[CallRecord, ...] = tuple(
            [replace(call, message=redactor.text(call.message, deadline)) if call.message else call for call in record.calls]
        )
        # Blacked out, two users would become one.
        unit = pseudonym(record.unit) if redactor.text(record.unit, deadline) != record.unit else record.unit
        audits = _audits_with(record, lambda message: redactor.text(message, deadline))
        return replace(record, content=content, error=redactor.text(record.error, deadline), unit=unit, calls=calls, audits=audits)


def _audits_with(record: ExchangeRecord, said: Callable[[str], str]) -> tuple[AuditRecord, ...]:
    """The audits, each message of their calls by what `said` makes of it."""

    def call_with(call: CallRecord) -> CallRecord:
        return replace(call, message=said(call.message)) if call.message else call

    return tuple(
        [
            replace(audit, call=None if audit.call is None else call_with(audit.call), before=tuple(map(call_with, audit.before)))
            for audit in record.audits
        ]
    )


def pseudonym(unit: str) -> str:
    """What stands for a unit that must not be stored: the same for the same user, always and everywhere. It is no secret: who has a
    list of addresses can find the one that it stands for."""
    return f"sha256:{hashlib.sha256(unit.encode()).hexdigest()[:PSEUDONYM_CHARS]}" if unit else ""


def _compiled(rules: tuple[str, ...]) -> Redactor | None:
    try:
        return Redactor(rules)
    except ValueError as error:
        # The policy's check refuses such a rule before it is in force; this is the second lock.
        log.error("content is not kept: a redaction rule cannot be used", extra={"error": str(error)})
        return None
