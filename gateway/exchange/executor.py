"""Drives a plan: does what the policy asks, tells it what came of it, and gives the client what it answers.

One `Exchange` is one client request. It knows verbs, never features: adding a kind of policy changes nothing here. It is a
state machine of callbacks, so that a request costs no task and a chunk no await.
"""

from __future__ import annotations

import logging
from asyncio import TimerHandle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, final

from gateway.errors import ApiError
from gateway.exchange.failure import RETRY_AFTER_S, api_error, retry_lines
from gateway.exchange.keepalive import KeepAlive
from gateway.exchange.leg import Leg
from gateway.exchange.order import Order, Site
from gateway.exchange.race import RaceRun
from gateway.exchange.recording import count, exchange_record
from gateway.exchange.verdicts import guarded, headers
from gateway.link.messages import AuditRecord
from gateway.protocol.errors import error_body, error_event
from gateway.scoring.base import Asked
from gateway.telemetry.trace_context import child_header
from gateway.upstream.base import Ask
from gateway.upstream.kinds import objection
from gateway.wire.base import Reply
from policies.detector import UNANSWERED
from policies.plan import CALLS_MAX, Answer, Assess, Assessment, Call, CallError, Outcome, Race, Refuse, Result, Verdict, advance

if TYPE_CHECKING:
    from gateway.exchange.audits import Audit

log: Final = logging.getLogger(__name__)


@final
class Exchange:
    """One client request and every call made for it."""

    __slots__ = (
        "_alive",
        "_asked",
        "_audit",
        "_closed",
        "_paused",
        "_pending",
        "_race",
        "_rendered",
        "_reply",
        "_resuming",
        "_site",
        "answer",
        "body",
        "code",
        "committed_at",
        "error",
        "legs",
        "now",
        "order",
        "reason",
        "strip_usage",
        "verdict",
    )

    def __init__(self, site: Site, order: Order, reply: Reply) -> None:
        self._site = site
        self._reply = reply
        self.order = order
        self.body = order.body
        self.now = site.now
        # The gateway asks for usage for its own accounting; a client that did not ask does not see it.
        self.strip_usage = order.body.stream and not order.body.include_usage
        self.legs: list[Leg] = []
        self.reason = "primary"
        self.code = 0
        self.error = ""
        self.committed_at: float | None = None
        self.answer: Leg | None = None
        """The leg that answered, or whose error did."""
        self.verdict: Answer | Refuse | None = None
        """What the policy answered, where a guard or a cascade had its say."""
        self._rendered: dict[str, tuple[bytes, ...]] = {}
        self._closed = False
        self._paused = False
        self._pending: Outcome | None = None
        self._resuming = False
        self._race: RaceRun | None = None
        self._asked: Asked | None = None
        """What the scoring process has been asked, which the plan waits for."""
        self._alive: KeepAlive | None = None
        self._audit: Audit | None = None
        """Where the policy wants its answer audited."""

    # The plan.

    def start(self) -> None:
        """Begin. The reply's observer is this exchange from here on."""
        self._reply.observer = self
        self._site.in_flight.add(self)
        if self.order.keep_alive_after is not None and self.body.stream:
            self._alive = KeepAlive(self._site.call_later, self.order.keep_alive_after, self._say_alive)
        self._drive(None)

    def resume(self, outcome: Outcome) -> None:
        """A leg has seen what its hold wanted, or failed."""
        if self._closed or self.answer is not None:
            return
        if self._resuming:
            self._pending = outcome  # it failed before the upstream's `call` had returned
        elif self._race is None:
            self._drive(outcome)
        elif (decided := self._race_took(outcome)) is not None:
            self._drive(decided)

    def _drive(self, result: Result | None) -> None:
        """Feed the plan until it waits for a call or the scoring process, or has ended."""
        self._resuming = True
        try:
            while True:
                step = advance(self.order.plan, result)
                self._pending = None
                # Not isinstance, which asks a Struct's metaclass, five times as dearly.
                if type(step) is Call:
                    result = self._call(step) or self._pending
                elif type(step) is Race:
                    result = self._start_race(step)
                elif type(step) is Assess:
                    result = self._assess(step)
                else:
                    break
                if result is None:
                    return
        except Exception:
            self._policy_failed()
            return
        finally:
            self._resuming = False
        self._conclude(step)

    def _policy_failed(self) -> None:
        """To be called where the exception is at hand."""
        log.exception("the policy failed", extra={"exchange_id": self.order.exchange_id, "route": self.order.route})
        self._refuse(ApiError(500, "server_error", "the gateway's policy failed on this request", code="policy_error"))

    def _assess(self, verb: Assess) -> Assessment | None:
        """What a detector says; None where the scoring process has been asked, which says it later."""
        detector, text = guarded(self.order, verb)
        found = detector.assess(text, verb.segment, inline=True)
        if found is not None:
            return found
        assert text is not None, "what has no text is unavailable, and nobody is asked"
        scoring = self._site.scoring
        if scoring is not None:
            self._asked = scoring.ask(detector, text, verb.segment, self.order.deadline, self._assessed)
        return UNANSWERED if self._asked is None else None

    def _assessed(self, found: Assessment) -> None:
        """The scoring process has said what it found, or could not in time."""
        self._asked = None
        if not self._closed:
            self._drive(found)

    def _call(self, verb: Call, racing: tuple[int, ...] = (), avoid: tuple[str, ...] = ()) -> Outcome | None:
        """Start a call, and cancel those under way that are neither kept nor `racing`; an outcome only where it cannot even be started."""
        index = len(self.legs)
        if index:
            if index >= CALLS_MAX:
                raise RuntimeError(f"a plan may make {CALLS_MAX} calls")
            self._cancel_but((*verb.keep, *racing))
        order, body = self.order, self.body
        target = order.targets[verb.backend]
        backend = target.backend
        span_id = self._site.new_id(64).to_bytes(8, "big").hex()
        leg = Leg(self, index, target, verb, span_id, self.now())
        self.legs.append(leg)
        if not target.watched.isdisjoint(body.names) and (error := objection(backend, body)) is not None:
            leg.error = error
            leg.ended_at = leg.judged_at = leg.started_at
            return Outcome(index, verb.backend, error)
        leg.call = target.upstream.call(
            Ask(
                order.path,
                self._render(backend.model) if verb.evidence is None else body.render(backend.model, usage=True, evidence=verb.evidence),
                b"x-request-id: " + order.request_id.encode() + b"\r\n" + child_header(order.trace, span_id),
                body.stream,
                order.deadline,
                body.affinity() if backend.balance == "prefix_hash" else 0,
                avoid,
            ),
            leg,
        )
        return None

    def _render(self, model: str) -> tuple[bytes, ...]:
        parts = self._rendered.get(model)
        if parts is None:
            parts = self._rendered[model] = self.body.render(model, usage=True)
        return parts

    # A race.

    def _start_race(self, verb: Race) -> Outcome | None:
        """Send the first call of a race; an outcome only where that cannot even be started."""
        memory = self.order.measures.memory
        if memory is None or memory.hedging is None:
            raise RuntimeError("a race on a route without a hedge")
        race = RaceRun(self, verb, memory.hedging)
        outcome = self._call(verb.calls[0]) or self._pending
        if outcome is not None:
            return outcome
        self._race = race
        race.started()
        return None

    def race_on(self, verb: Call, racing: tuple[int, ...], avoid: tuple[str, ...]) -> None:
        """Send the next call of the race, beside those that are `racing`."""
        try:
            outcome = self._call(verb, racing, avoid)
        except Exception:
            self._policy_failed()
            return
        if outcome is not None:
            self.resume(outcome)

    def _race_took(self, outcome: Outcome) -> Outcome | None:
        """A call of the race has come to something; None while others are still out."""
        race = self._race
        assert race is not None
        decided = race.took(outcome)
        if decided is not None:
            self._race = None
            first = decided.call - decided.place
            for leg in self.legs[first:]:
                if leg.index != decided.call:
                    leg.cancel()
        return decided

    # The verdict.

    def _conclude(self, verdict: Verdict) -> None:
        if type(verdict) is Refuse:
            self.verdict = verdict
            self.reason = "refused"
            self._refuse(ApiError(verdict.status, verdict.kind, verdict.message, code=verdict.code))
            return
        try:
            leg = self.legs[verdict.outcome.call]
        except (AttributeError, IndexError):  # no verdict, or one about a call that was never made
            self._policy_failed()
            return
        if verdict.judgements or verdict.ood is not None:
            self.verdict = verdict
        self.reason = verdict.reason
        error = verdict.outcome.error or leg.error
        if error is None:
            if verdict.mirrors and self._site.audits is not None:
                self._audit = self._site.audits.begin(self, verdict.mirrors)
            self._commit(leg)
        else:
            self.answer = leg
            self._refuse(self._client_error(leg, error))

    def _client_error(self, leg: Leg, error: CallError) -> ApiError:
        return api_error(error, leg.target.backend.name, self.body.endpoint, headed=leg.head_at is not None)

    def _commit(self, leg: Leg) -> None:
        """Nothing has reached the client before this (but comments, where the policy wants them), and no other model after."""
        self.answer = leg
        if len(self.legs) > 1:
            self._stop_losers()
        self.committed_at = self.now()
        reply = self._reply
        audit = self._audit
        held = leg.commit(reply.write if self.order.content is None and audit is None else self._pass_on)
        if audit is None or not audit.asks:
            self.body.drop()
        self._rendered.clear()
        self._given(held)
        if leg.reader is None:
            self.code = 200
            reply.send(200, self._head(b"application/json", leg.target.backend.name), held)
            self._close()
            return
        if self._alive is not None and self._alive.spoke:
            reply.write(held)
        else:
            reply.start(
                200, self._head(b"text/event-stream; charset=utf-8", leg.target.backend.name) + b"cache-control: no-cache\r\n", held
            )
        if self._alive is not None:
            self._alive.stop()
        if leg.ended_at is not None:
            self.answer_ended(leg, b"")
        elif self._paused:  # by comments, before there was a call to pause
            leg.call.pause_reading()

    def _pass_on(self, data: bytes) -> None:
        self._reply.write(data)
        self._given(data)

    def _given(self, data: bytes) -> None:
        """The client is given more of its answer: kept for its record, compared by its audit."""
        if self.order.content is not None:
            self.order.content.response(data)
        if self._audit is not None:
            self._audit.heard(data)

    def answer_ended(self, leg: Leg, tail: bytes) -> None:
        """The answer is whole, or a reply that is only audited."""
        if leg is not self.answer:
            assert self._audit is not None
            self._audit.finished(leg, tail, None)
            return
        self._given(tail)
        self.code = 200
        self._reply.end(tail)
        self._close()

    def answer_broke(self, leg: Leg, error: CallError) -> None:
        """The backend failed after commit: the client is told in the stream, never silence and never another model."""
        if leg is not self.answer:
            assert self._audit is not None
            self._audit.finished(leg, b"", error)
            return
        problem = self._client_error(leg, error)
        self.code, self.error = problem.status, problem.message
        self._reply.end(error_event(self.body.endpoint, problem.kind, problem.message, code=problem.code))
        self._close()

    def _refuse(self, problem: ApiError) -> None:
        """Answer with an error; the status tells, unless comments have sent one already."""
        if self._closed:
            return
        self._stop_losers()
        self.code, self.error = problem.status, problem.message
        if self._alive is not None and self._alive.spoke:
            self._reply.end(error_event(self.body.endpoint, problem.kind, problem.message, code=problem.code))
        else:
            body = error_body(self.body.endpoint, problem.status, problem.kind, problem.message, problem.param, problem.code)
            backend = "" if self.answer is None else self.answer.target.backend.name
            self._reply.send(problem.status, self._head(b"application/json", backend) + problem.headers, body)
        self._close()

    def _head(self, content_type: bytes, backend: str) -> bytes:
        head = self.order.head(content_type, backend, self.reason)
        if self.verdict is not None:
            head += headers(self.verdict, self.order.debug)
        if self.order.debug:
            head += b"x-headgate-calls: %d\r\nx-headgate-overhead-ms: %.3f\r\n" % (len(self.legs), self._overhead(self.now()) * 1000)
        return head

    def _say_alive(self, first: bool) -> None:
        if first:
            head = self._head(b"text/event-stream; charset=utf-8", "") + b"cache-control: no-cache\r\n"
            self._reply.start(200, head, b": keep-alive\n\n")
        else:
            self._reply.write(b": keep-alive\n\n")

    def _stop_losers(self) -> None:
        spared: tuple[int, ...] = () if self._audit is None else self._audit.spared
        for leg in self.legs:
            if leg is not self.answer and leg.index not in spared:
                leg.cancel()

    def _cancel_but(self, keep: tuple[int, ...]) -> None:
        for leg in self.legs:
            if leg.index not in keep:
                leg.cancel()

    # The client (gateway.wire.base.Observer).

    def client_left(self) -> None:
        """Every leg is cancelled; in the metrics this is 499 and never an error of a backend."""
        if self._closed:
            return
        if self.answer is not None and self.answer.whole:
            self.code = 200  # it has all of the answer, and does not wait for the connection's end
            self._stop_losers()
            self.answer.cancel()
        else:
            self._site.left("before_commit" if self.committed_at is None else "after_commit")
            self.code, self.error = 499, "the client left"
            for leg in self.legs:
                leg.cancel()
        self._close()

    def pause_writing(self) -> None:
        self._paused = True
        if self.answer is not None and self.answer.ended_at is None:
            self.answer.call.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if self.answer is not None and self.answer.ended_at is None:
            self.answer.call.resume_reading()

    # The end.

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> TimerHandle:
        return self._site.call_later(delay_s, callback)

    def abandon(self, message: str) -> None:
        """The worker stops: end the answer as well as can be."""
        if self._closed:
            return
        problem = ApiError(503, "server_error", message, code="shutting_down", headers=retry_lines(RETRY_AFTER_S))
        if self.committed_at is None:
            self._refuse(problem)
            return
        self.code, self.error = 503, message
        for leg in self.legs:
            leg.cancel()
        self._reply.end(error_event(self.body.endpoint, problem.kind, message, code=problem.code))
        self._close()

    def _overhead(self, now: float) -> float:
        """Seconds of this exchange in which no call was under way. Calls may overlap; they stand in the order of their start."""
        idle, until = 0.0, self.order.started
        for leg in self.legs:
            if leg.started_at > until:
                idle += leg.started_at - until
            ended = leg.ended_at or now
            if ended > until:
                until = ended
        return idle + (now - until) if now > until else idle

    def _close(self) -> None:
        """Count it, and record it once it has been audited; once, whatever happened."""
        if self._closed:
            return
        self._closed = True
        if self._alive is not None:
            self._alive.stop()
        if self._asked is not None:
            self._asked.forget()
            self._asked = None
        if self._race is not None:
            self._race.stop()
            self._race = None
        now = self.now()
        order = self.order
        overhead = self._overhead(now)
        count(self, now, overhead)
        self._site.in_flight.discard(self)
        self._reply.observer = None
        try:
            order.plan.close()
        except Exception:
            log.exception("the policy failed as it was closed", extra={"exchange_id": order.exchange_id, "route": order.route})
        if self._audit is None:
            self.record(now, overhead)
        else:
            self._audit.answered(now, overhead)

    def record(self, now: float, overhead: float, audits: tuple[AuditRecord, ...] = ()) -> None:
        """Hand its record over, and let go of everything. `now` is when it was over, its audits may have gone on since."""
        try:
            self._site.emit(exchange_record(self, now, overhead, audits))
        except Exception:
            log.exception("no record could be made", extra={"exchange_id": self.order.exchange_id})
        # Legs point back here: a cycle would keep the request's body until the collector's next round, thousands of exchanges away.
        self.legs = []
        self.answer = None
        self._audit = None
        self.order.release()

    @property
    def bytes_out(self) -> int:
        return self._reply.bytes_out

    def __repr__(self) -> str:
        calls: Any = [leg.target.backend.name for leg in self.legs]
        return f"<Exchange {self.order.exchange_id} {self.order.route} calls={calls} code={self.code}>"
