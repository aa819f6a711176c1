"""How a failure is named, and whom it speaks against. Why: docs/adr/0006-what-counts-as-refused.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.wire.base import WireFailure
from policies.plan import CallError, ErrorKind
from policies.schema import Timeouts

REFUSALS: Final[frozenset[ErrorKind]] = frozenset({"connect", "timeout_connect", "closed", "queue_full"})
"""Failures after which nobody is generating: no connection was had, or the peer is gone without a byte of an answer."""

BLAMELESS: Final[frozenset[ErrorKind]] = frozenset(
    {"deadline", "cancelled", "too_large", "queue_full", "queue_timeout", "unready", "breaker_open"}
)
"""Ends of a call that say nothing of the replica's health."""

NOT_ITS_FAULT: Final = frozenset({501, 505})
"""Error statuses for what a replica does not offer: a client that asks for it must not open the breaker for others."""


def error_of(failure: WireFailure, *, headed: bool) -> CallError:
    """A wire failure in the words of a policy. `headed`: the reply's status line had come."""
    kind: ErrorKind
    match failure.kind:
        case "exhausted":
            kind = "queue_full"
        case "closed" if headed or failure.received:
            kind = "truncated"
        case "connect" | "timeout_connect" | "closed" | "truncated" | "protocol":
            kind = failure.kind
    return CallError(kind, failure.message)


def speaks_against(status: int, busy: frozenset[int], *, advised: bool) -> bool:
    """Does a status count as a failure of the replica? 5xx do; "come back later" (`busy`, or 503 with `retry-after`) does not:
    that is a replica that works and says that it is full, and opening its breaker would turn load into an outage."""
    return status >= 500 and status not in NOT_ITS_FAULT and status not in busy and not (status == 503 and advised)


def retry_after_s(headers: Mapping[bytes, bytes]) -> float | None:
    """Delay seconds of RFC 9110 section 10.2.3. A date is not read: clocks differ by more than such a pause lasts."""
    value = headers.get(b"retry-after", b"")
    return float(value) if value.isdigit() and len(value) < 7 else None


def timeout_error(kind: ErrorKind, timeouts: Timeouts, queue_for: float) -> CallError:
    """Words a timeout that the sweep has found."""
    match kind:
        case "timeout_first_token":
            message = f"no first token within {timeouts.first_token:g} s"
        case "timeout_between_tokens":
            message = f"silent for {timeouts.between_tokens:g} s in the middle of its reply"
        case "timeout_total":
            message = f"not done within {timeouts.total:g} s"
        case "queue_timeout":
            message = f"no call ended for it within {queue_for:g} s of waiting"
        case _:
            message = "the request's deadline has passed"
    return CallError(kind, message)
