"""One call as both sides hold it: the exchange cancels and paces it, the wire hands it the response.

It keeps the state; what happens next is decided by its owner, `HttpUpstream`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, final

from gateway.upstream.base import Ask, Attempt, ReplyReceiver
from gateway.upstream.replica import Replica
from gateway.wire.base import Ticket, WireFailure
from policies.plan import CallError

QUEUED: Final = 0
"""Waits for a place under the concurrency limit."""
PENDING: Final = 1
"""Has a place; its next step (an attempt, or its failure) is scheduled."""
SENT: Final = 2
"""In the wire's hands, no status line yet."""
REFUSED: Final = 3
"""Answered 429 or 503 and to be tried again; the rest of that answer is let pass, so that its connection can be kept."""
ANSWERED: Final = 4
"""The reply goes to the receiver."""
OVER: Final = 5

REFUSAL_BYTES_MAX: Final = 64 * 1024
"""A refusal's body is read to its end up to here, then its connection is closed instead."""


class Owner(Protocol):
    """What a call needs of its upstream."""

    def error_status(self, call: HttpCall, status: int, headers: dict[bytes, bytes]) -> bool: ...
    def trial_answered(self, call: HttpCall) -> None: ...
    def refusal_over(self, call: HttpCall) -> None: ...
    def reply_over(self, call: HttpCall) -> None: ...
    def wire_failed(self, call: HttpCall, failure: WireFailure) -> None: ...
    def faulted(self, call: HttpCall, error: CallError) -> None: ...
    def cancelled(self, call: HttpCall) -> None: ...
    def first_content(self, call: HttpCall) -> None: ...


class _Nobody:
    """Hears what comes when nobody listens any more."""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None: ...
    def on_body(self, data: bytes) -> None: ...
    def on_end(self) -> None: ...
    def on_failure(self, error: CallError) -> None: ...


NOBODY: Final = _Nobody()


@final
class HttpCall:
    """`UpstreamCall` to the exchange, `Receiver` to the wire, `deadlines.Timed` to the sweep.

    `response_body` is a slot, not a method: once the reply is the receiver's, it holds the receiver's own `on_body`, so that a
    chunk passes this layer without a call.
    """

    __slots__ = (
        "ask",
        "attempt_at",
        "attempts",
        "blamed",
        "content",
        "delay",
        "entered_at",
        "error",
        "headed",
        "heard_at",
        "owner",
        "paused",
        "phase",
        "placed",
        "receiver",
        "refusal_bytes",
        "replica",
        "response_body",
        "settled",
        "started",
        "status",
        "stream",
        "ticket",
        "timer",
        "trial",
        "tried",
    )

    response_body: Callable[[bytes], None]

    def __init__(self, owner: Owner, ask: Ask, receiver: ReplyReceiver, now: float) -> None:
        self.owner = owner
        self.ask = ask
        self.receiver = receiver
        self.stream = ask.stream
        self.attempts: list[Attempt] = []
        self.phase: int = QUEUED
        self.placed = False
        """Holds a place under the limit."""
        self.entered_at = now
        self.started = now
        """First attempt; see `deadlines.Timed` for the times."""
        self.attempt_at = now
        self.heard_at = now
        self.content = False
        self.paused = False
        self.headed = False
        """A status line that is the receiver's has come."""
        self.status = 0
        self.blamed = False
        """The status speaks against the replica."""
        self.settled = False
        """The call has been counted, and its last attempt told to the breaker."""
        self.replica: Replica | None = None
        self.trial = False
        self.tried: tuple[Replica, ...] = ()
        self.error: CallError | None = None
        """Why the last attempt was given up."""
        self.delay = 0.0
        self.refusal_bytes = 0
        self.ticket: Ticket | None = None
        self.timer: asyncio.Handle | None = None
        self.response_body = _ignore

    # To the exchange.

    def cancel(self) -> None:
        if self.phase != OVER:
            self.owner.cancelled(self)

    def content_seen(self) -> None:
        if not self.content:
            self.content = True
            self.owner.first_content(self)

    def fault(self, error: CallError) -> None:
        """As `UpstreamCall` says; it must come before `on_end` has returned, after that the reply counts as good."""
        if not self.settled:
            self.owner.faulted(self, error)

    def pause_reading(self) -> None:
        self.paused = True
        if self.ticket is not None:
            self.ticket.pause_reading()

    def resume_reading(self) -> None:
        self.paused = False
        if self.ticket is not None:
            self.ticket.resume_reading()

    # To the wire.

    def response_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status
        if status >= 400 and self.owner.error_status(self, status, headers):
            self.phase = REFUSED
            self.response_body = self._let_pass
            return
        self.phase = ANSWERED
        self.headed = True
        self.ask.body = ()  # never sent again: an open stream need not keep its prompt
        self.response_body = self.receiver.on_body
        if self.trial and not self.blamed:
            self.owner.trial_answered(self)
        self.receiver.on_head(status, headers)

    def response_end(self) -> None:
        if self.phase == ANSWERED:
            self.owner.reply_over(self)
        elif self.phase == REFUSED:
            self.owner.refusal_over(self)

    def response_failed(self, failure: WireFailure) -> None:
        if self.phase == REFUSED:
            self.owner.refusal_over(self)
        elif self.phase != OVER:
            self.owner.wire_failed(self, failure)

    def _let_pass(self, data: bytes) -> None:
        self.refusal_bytes += len(data)
        if self.refusal_bytes > REFUSAL_BYTES_MAX:
            self.drop()
            self.owner.refusal_over(self)

    # To its owner.

    def drop(self) -> None:
        """Close the connection under it, if there is one."""
        if self.ticket is not None:
            self.ticket.cancel()
            self.ticket = None

    def let_go(self) -> ReplyReceiver:
        """The call is over: nothing points at the receiver any more (the hot path makes no cycles). Returns it for a last word."""
        receiver = self.receiver
        self.phase = OVER
        self.receiver = NOBODY
        self.response_body = _ignore
        self.ticket = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return receiver


def _ignore(data: bytes) -> None:
    """A chunk that is nobody's."""
