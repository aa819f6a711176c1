"""The timeouts of a call, without a timer for each: a few times a second every active call is looked at once.

A read costs one flag (`Ticket.heard`, set by the wire and cleared here), so a timeout is late by one sweep at the most.
"""

from __future__ import annotations

from typing import Protocol

from policies.plan import ErrorKind
from policies.schema import Timeouts


class Timed(Protocol):
    """What the sweep knows of a call that was sent. Times are loop.time()."""

    started: float
    """First attempt."""
    attempt_at: float
    """The attempt under way."""
    heard_at: float
    """The sweep that last found something read, or nothing awaited because the client is not reading."""
    stream: bool
    content: bool
    """The first content has been seen."""


def overdue(call: Timed, timeouts: Timeouts, now: float) -> ErrorKind | None:
    """The timeout that a call under way has run into. (`connect` is the wire's: it is told with the request.)

    A reply that is not streamed comes in one piece at the end: only `total` applies to it.
    """
    if now - call.started >= timeouts.total:
        return "timeout_total"
    if not call.stream:
        return None
    if call.content:
        return "timeout_between_tokens" if now - call.heard_at >= timeouts.between_tokens else None
    return "timeout_first_token" if now - call.attempt_at >= timeouts.first_token else None
