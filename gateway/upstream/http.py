"""A backend over HTTP: admission, choice of a replica, sending, and the decision to try again or to hand the reply on.

The decisions are small synchronous objects (`limit`, `breaker`, `retry`, `balance`, `deadlines`); this file carries them out.
Everything is a callback: no task and no await.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import final

from gateway.telemetry.counters import Counters
from gateway.upstream.address import ReplicaView
from gateway.upstream.base import Ask, Attempt, ReplyReceiver
from gateway.upstream.call import ANSWERED, OVER, PENDING, QUEUED, REFUSED, SENT, HttpCall
from gateway.upstream.deadlines import overdue
from gateway.upstream.failures import BLAMELESS, REFUSALS, error_of, retry_after_s, speaks_against, timeout_error
from gateway.upstream.kinds import KINDS
from gateway.upstream.limit import Limit
from gateway.upstream.measures import Measures
from gateway.upstream.replicas import BreakerTurned, OpenPool, Replicas
from gateway.upstream.retry import RetryBudget, RetryRule
from gateway.wire.base import WireFailure
from gateway.wire.ticker import Ticker
from policies.plan import CallError, ErrorKind
from policies.schema import Backend


@final
class HttpUpstream:
    """`Upstream` over HTTP/1.1. One event loop, no locks."""

    def __init__(
        self,
        backend: Backend,
        *,
        loop: asyncio.AbstractEventLoop,
        counters: Counters,
        open_pool: OpenPool,
        ticker: Ticker,
        jitter: Callable[[], float] = random.random,
        share: int = 1,
        breaker_turned: BreakerTurned | None = None,
    ) -> None:
        """`share` is the number of live workers that divide the machine's limits. Raises ValueError for an address or key that
        cannot be sent."""
        self.name = backend.name
        self._loop = loop
        self._ticker = ticker
        self._timeouts = backend.timeouts
        self._concurrency = backend.concurrency
        self._busy = KINDS[backend.kind].busy_statuses
        self._limit: Limit[HttpCall] = Limit(backend.concurrency, share)
        self._rule = RetryRule(backend.retries, jitter)
        self._budget = RetryBudget(backend.retries.budget_percent)
        self._measures = Measures(counters, backend.name)
        self._replicas = Replicas(backend, open_pool, self._measures.breaker_open, breaker_turned)
        self._active: set[HttpCall] = set()
        self._closing = False
        ticker.register(self.sweep)

    # The seam.

    def call(self, ask: Ask, receiver: ReplyReceiver) -> HttpCall:
        now = self._loop.time()
        call = HttpCall(self, ask, receiver, now)
        if ask.avoid:
            call.tried = self._replicas.named(ask.avoid)
        self._active.add(call)
        self._budget.called(now)
        entry = self._limit.enter(call)
        if entry == "go":
            self._admit(call)
            self._send(call, now)
        elif entry == "wait":
            self._measures.queue_depth.value += 1
        else:
            self._measures.queue_full.value += 1
            self._fail_soon(call, CallError("queue_full", f"{self._limit.waiting} calls are waiting already"))
        return call

    def has_other(self, avoid: tuple[str, ...]) -> bool:
        return self._replicas.has_other(self._replicas.named(avoid), self._loop.time())

    def close(self) -> None:
        self._closing = True
        self._replicas.close_connections()
        if not self._active:
            self._shut()

    # What the overlay tells.

    def set_replicas(self, states: Mapping[str, bool]) -> None:
        """Which replicas are ready; one that is not named counts as ready."""
        self._replicas.set_ready(states)

    def set_share(self, workers: int) -> None:
        """The machine's limits are divided by so many live workers."""
        for call in self._limit.set_share(workers):
            self._wake(call)

    @property
    def replicas(self) -> list[ReplicaView]:
        return self._replicas.views()

    # Admission.

    def _admit(self, call: HttpCall) -> None:
        call.placed = True
        self._measures.in_flight.value += 1

    def _wake(self, call: HttpCall) -> None:
        """A waiter has been given a place."""
        self._measures.queue_depth.value -= 1
        self._admit(call)
        self._send_later(call, 0.0)

    # An attempt.

    def _send_later(self, call: HttpCall, delay: float) -> None:
        call.phase = PENDING
        call.timer = self._loop.call_later(delay, self._resume, call) if delay > 0 else self._loop.call_soon(self._resume, call)

    def _resume(self, call: HttpCall) -> None:
        call.timer = None
        self._send(call, self._loop.time())

    def _send(self, call: HttpCall, now: float) -> None:
        replica = self._replicas.choose(call.tried, call.ask.affinity, now)
        if replica is None:
            self._fail_soon(call, call.error or self._replicas.why_none())
            return
        call.replica = replica
        breaker = replica.breaker
        call.trial = breaker.opened_at is not None and breaker.start()
        call.attempt_at = call.heard_at = now
        if not call.attempts:
            call.started = now
        call.attempts.append(Attempt(replica.url, now))
        call.blamed = False
        call.phase = SENT
        replica.outstanding += 1
        call.ticket = replica.connections.request(replica.request(call.ask), call, connect_timeout_s=self._timeouts.connect)

    def _attempt_over(self, call: HttpCall, now: float, result: str) -> None:
        attempt = call.attempts[-1]
        attempt.ended = now
        attempt.result = result
        assert call.replica is not None
        call.replica.outstanding -= 1

    # What the wire tells, by way of the call.

    def error_status(self, call: HttpCall, status: int, headers: dict[bytes, bytes]) -> bool:
        """An error status has come. True: it is a refusal and will be tried again; False: it is the receiver's."""
        advice = retry_after_s(headers)
        call.blamed = speaks_against(status, self._busy, advised=advice is not None)
        if status not in (429, 503):
            return False
        now = self._loop.time()
        result = f"status:{status}"
        delay = self._retry_delay(call, str(status), advice, now)
        if delay is None:
            return False
        self._attempt_over(call, now, result)
        self._judge(call, now, failed=call.blamed)
        self._refused(call, CallError("status", f"answered {status}", status, advice), result, delay)
        return True

    def refusal_over(self, call: HttpCall) -> None:
        call.ticket = None
        self._send_later(call, call.delay)

    def trial_answered(self, call: HttpCall) -> None:
        self._judge(call, self._loop.time(), failed=False)

    def reply_over(self, call: HttpCall) -> None:
        now = self._loop.time()
        good = call.status < 400
        self._attempt_over(call, now, "ok" if good else f"status:{call.status}")
        receiver = self._release(call, now)
        try:
            receiver.on_end()
        finally:
            if not call.settled:
                self._settle(call, now, "ok" if good else "status", failed=call.blamed)

    def wire_failed(self, call: HttpCall, failure: WireFailure) -> None:
        now = self._loop.time()
        error = error_of(failure, headed=call.headed)
        # A close on a kept connection is the keep-alive race, which says nothing of the replica.
        race = error.kind == "closed" and failure.reused
        self._attempt_over(call, now, error.kind)
        self._judge(call, now, failed=None if race or error.kind in BLAMELESS else True)
        delay = self._retry_delay(call, "connect", None, now) if error.kind in REFUSALS else None
        if delay is None:
            self._fail(call, error, now)
        else:
            self._refused(call, error, error.kind, 0.0 if race else delay)
            self._send_later(call, call.delay)

    # What the exchange tells, by way of the call.

    def cancelled(self, call: HttpCall) -> None:
        self._stop(call, "cancelled", failed=None)

    def faulted(self, call: HttpCall, error: CallError) -> None:
        failed = None if error.kind in BLAMELESS else True
        if call.phase != OVER:
            self._stop(call, error.kind, failed=failed)
        else:  # within `on_end`
            call.attempts[-1].result = error.kind
            self._settle(call, self._loop.time(), error.kind, failed=failed)

    def first_content(self, call: HttpCall) -> None:
        call.heard_at = now = self._loop.time()
        self._measures.first_token.observe(now - call.started)

    # The sweep.

    def sweep(self, now: float) -> None:
        """End what is overdue: run a few times a second."""
        late = [(call, kind) for call in self._active if (kind := self._overdue(call, now)) is not None]
        for call, kind in late:
            if call.phase == OVER:
                continue  # an earlier one of this sweep has ended it
            if kind == "status":
                call.drop()
                self.refusal_over(call)
            else:
                self._time_out(call, kind, now)

    def _overdue(self, call: HttpCall, now: float) -> ErrorKind | None:
        """The timeout that this call has run into, wherever it stands."""
        if now >= call.ask.deadline:
            return "deadline"
        phase = call.phase
        if phase == QUEUED:
            return "queue_timeout" if now - call.entered_at >= self._concurrency.queue_for else None
        if phase == PENDING:
            return None
        ticket = call.ticket
        if phase == REFUSED or ticket is None:
            return "status"  # the rest of a refusal is not waited for
        if ticket.heard or call.paused:
            ticket.heard = False
            call.heard_at = now
        return overdue(call, self._timeouts, now)

    def _time_out(self, call: HttpCall, kind: ErrorKind, now: float) -> None:
        # A reply that was coming all along and hit `total` was long, not stuck.
        failed = None if kind in BLAMELESS or (kind == "timeout_total" and call.headed) else True
        if kind == "queue_timeout":
            self._measures.queue_timeout.value += 1
        receiver = self._stop(call, kind, failed=failed)
        receiver.on_failure(timeout_error(kind, self._timeouts, self._concurrency.queue_for))

    # Trying again.

    def _retry_delay(self, call: HttpCall, reason: str, advice: float | None, now: float) -> float | None:
        """Seconds until the next attempt; None: there is none."""
        made = len(call.attempts)
        if not self._rule.wants(reason, made):
            return None
        assert call.replica is not None
        if advice is not None and self._replicas.has_other((*call.tried, call.replica), now):
            advice = None  # it was the advice of one replica
        delay = self._rule.delay(made, advice)
        if delay is None or now + delay >= min(call.ask.deadline, call.started + self._timeouts.total):
            return None
        if not self._budget.spend(now):
            self._measures.retries_denied.value += 1
            return None
        return delay

    def _refused(self, call: HttpCall, error: CallError, result: str, delay: float) -> None:
        assert call.replica is not None
        call.tried = (*call.tried, call.replica)
        call.error = error
        call.delay = delay
        self._measures.retries[result].value += 1

    # The end of a call.

    def _release(self, call: HttpCall, now: float) -> ReplyReceiver:
        """Give its place to the next one. Returns who is to be told."""
        self._active.discard(call)
        if call.phase == QUEUED:
            self._limit.give_up(call)
            self._measures.queue_depth.value -= 1
        if call.placed:
            call.placed = False
            self._measures.in_flight.value -= 1
            if (waiter := self._limit.leave()) is not None:
                self._wake(waiter)
        if call.attempts:
            self._measures.duration.observe(now - call.started)
        if self._closing and not self._active:
            self._loop.call_soon(self._shut)
        return call.let_go()

    def _stop(self, call: HttpCall, result: str, *, failed: bool | None) -> ReplyReceiver:
        """End a call from this side, wherever it stands. Returns who could be told."""
        now = self._loop.time()
        call.drop()
        if call.phase in (SENT, ANSWERED):
            self._attempt_over(call, now, result)
        receiver = self._release(call, now)
        self._settle(call, now, result, failed=failed)
        return receiver

    def _settle(self, call: HttpCall, now: float, result: str, *, failed: bool | None) -> None:
        """Count the call, once."""
        call.settled = True
        self._measures.results[result].value += 1
        self._judge(call, now, failed=failed)

    def _judge(self, call: HttpCall, now: float, *, failed: bool | None) -> None:
        """Tell the breaker how an attempt ended; None: nothing was learnt."""
        replica = call.replica
        if replica is None:
            return
        if failed is False and not call.trial:
            replica.breaker.succeeded()
        else:
            self._replicas.judge(replica, now, failed=failed, trial=call.trial)
            call.trial = False

    def _fail_soon(self, call: HttpCall, error: CallError) -> None:
        """Fail a call that has no attempt under way, after whoever asked has returned."""
        call.phase = PENDING
        call.timer = self._loop.call_soon(self._fail_now, call, error)

    def _fail_now(self, call: HttpCall, error: CallError) -> None:
        call.timer = None
        self._fail(call, error, self._loop.time())

    def _fail(self, call: HttpCall, error: CallError, now: float) -> None:
        """The call fails; its attempts have been judged."""
        receiver = self._release(call, now)
        self._settle(call, now, error.kind, failed=None)
        receiver.on_failure(error)

    def _shut(self) -> None:
        """Retired, and nothing runs any more."""
        if not self._active:
            self._ticker.unregister(self.sweep)
            self._replicas.forget()
