"""Audits of exchanges: a sampled decision of a cascade is checked once the client has its answer (`policies.plan.Mirror`).

An accepted answer: the last stage is asked the same, as by a client whose route has nothing else, so that limits, breakers, timeouts,
costs and the backend that stands in for another are those of any request. A deferred reply: its call is let finish. Then the two replies
are compared, and the exchange's record, which has waited for that, goes out.

Nothing here delays or fails an answer, and nothing waits for room: what cannot be audited is left out, and the record says why.
"""

from __future__ import annotations

import logging
from asyncio import TimerHandle
from collections.abc import Callable
from typing import Final, final

from gateway.exchange.executor import Exchange
from gateway.exchange.leg import Leg
from gateway.exchange.order import Order, Site
from gateway.link.messages import AuditRecord, CallRecord, ExchangeRecord
from gateway.protocol.said import SaidReader
from gateway.wire.base import Observer
from policies.agreement import Said, agree
from policies.failover import Failover
from policies.plan import Agreement, CallError, Mirror

log = logging.getLogger(__name__)

AUDITED_MAX = 64
"""Exchanges that a worker audits at once, counted from the commit of their answers; one more is "busy"."""
ASKED_BYTES_MAX = 1024 * 1024
"""Of a request that is kept until its answer is whole, to be asked again; a longer one is "too_long"."""
AUDIT_FOR_S = 120.0
"""From the end of the answer; what has not ended by then is given up as "timeout"."""

_WHY: Final = {
    "deadline": "timeout",
    "timeout_connect": "timeout",
    "timeout_first_token": "timeout",
    "timeout_between_tokens": "timeout",
    "timeout_total": "timeout",
    "queue_full": "busy",
    "queue_timeout": "busy",
}
"""Why a call that failed tells nothing, by the kind of its error; "error" for every other."""


class Audits:
    """What a worker audits at the moment."""

    def __init__(self, *, now: Callable[[], float], call_later: Callable[..., TimerHandle], new_id: Callable[[int], int]) -> None:
        self.now = now
        self.call_later = call_later
        self.new_id = new_id
        self.running: set[Audit] = set()
        self._stopped = False

    def begin(self, exchange: Exchange, mirrors: tuple[Mirror, ...]) -> Audit | None:
        """To be called before the exchange commits to an answer that is to be audited."""
        why = ""
        if self._stopped:
            why = "stopped"
        elif len(self.running) >= AUDITED_MAX:
            why = "busy"
        elif exchange.body.choices != 1 or exchange.body.endpoint == "embeddings":
            why = "not_comparable"
        try:
            return Audit(self, exchange, mirrors, why)
        except Exception:
            log.exception("no audit could be begun", extra={"exchange_id": exchange.order.exchange_id})
            return None

    def stop(self) -> None:
        """The worker stops: what runs is given up at once, and nothing more is begun."""
        self._stopped = True
        for audit in list(self.running):
            audit.give_up("stopped")


@final
class _Check:
    """One mirror, and what came of it."""

    __slots__ = ("asking", "calls", "mirror", "reply", "said_all", "why")

    def __init__(self, mirror: Mirror, reply: SaidReader, why: str) -> None:
        self.mirror = mirror
        self.reply = reply
        """Of the backend that is compared with the answer."""
        self.why = why
        """Why it tells nothing; "" unless it has ended so."""
        self.said_all = False
        """The reply is whole."""
        self.asking: Exchange | None = None
        """The calls for the audit alone, while they are under way."""
        self.calls: tuple[CallRecord, ...] = ()
        """And what came of them: each but the last failed."""

    @property
    def over(self) -> bool:
        return self.said_all or self.why != ""


@final
class Audit:
    """The audits of one exchange. `why`: they cannot be made; "" where they can."""

    def __init__(self, audits: Audits, exchange: Exchange, mirrors: tuple[Mirror, ...], why: str) -> None:
        self._audits = audits
        self._exchange = exchange
        self._answer = self._reader()
        self._checks = [_Check(mirror, self._reader(), why) for mirror in mirrors]
        self._answered: tuple[float, float] | None = None
        """When the exchange was over, and its overhead."""
        self._timer: TimerHandle | None = None
        self.spared: tuple[int, ...] = ()
        """The calls of the exchange that go on although another has answered."""
        self.asks = False
        """The request will be sent once more: its body must be kept."""
        for check in self._checks:
            if not check.over:
                self._prepare(check)
        if any(not check.over for check in self._checks):
            audits.running.add(self)

    def _reader(self) -> SaidReader:
        return SaidReader(self._exchange.body.endpoint, stream=self._exchange.body.stream)

    def _prepare(self, check: _Check) -> None:
        if check.mirror.purpose == "audit_accepted":
            if self._exchange.body.size > ASKED_BYTES_MAX:
                check.why = "too_long"
            else:
                self.asks = True
            return
        leg = self._exchange.legs[check.mirror.call]
        if leg.error is not None:
            check.why = _WHY.get(leg.error.kind, "error")
            return
        self.spared += (leg.index,)
        check.reply.feed(leg.commit(check.reply.feed))
        check.said_all = leg.ended_at is not None

    # What the exchange tells.

    def heard(self, data: bytes) -> None:
        """The next bytes of the answer; read only while something may still be compared with it."""
        if not all(check.why for check in self._checks):
            self._answer.feed(data)

    def finished(self, leg: Leg, tail: bytes, error: CallError | None) -> None:
        """A call that was let finish has done so."""
        for check in self._checks:
            if check.mirror.call == leg.index and check.mirror.purpose == "audit_deferred" and not check.over:
                check.reply.feed(tail)
                if error is None:
                    check.said_all = True
                else:
                    check.why = _WHY.get(error.kind, "error")
        self._end_if_over()

    def answered(self, now: float, overhead: float) -> None:
        """The exchange is over: the client has its answer, or never will."""
        self._answered = (now, overhead)
        try:
            if self._exchange.code != 200:
                self.give_up("not_comparable")
                return
            for check in self._checks:
                if check.mirror.purpose == "audit_accepted" and not check.over:
                    self._ask(check)
            if any(not check.over for check in self._checks):
                self._timer = self._audits.call_later(AUDIT_FOR_S, self.give_up, "timeout")
        except Exception:
            log.exception("no audit could be made", extra={"exchange_id": self._exchange.order.exchange_id})
            self.give_up("error")
        self._end_if_over()

    def give_up(self, why: str) -> None:
        """What has not ended yet is stopped, and tells nothing."""
        for check in self._checks:
            if check.over:
                continue
            check.why = why
            if check.asking is not None:
                check.asking.client_left()
            elif check.mirror.purpose == "audit_deferred":
                self._exchange.legs[check.mirror.call].cancel()
        self._end_if_over()

    # The call for an accepted answer.

    def _ask(self, check: _Check) -> None:
        """As the client asked, but the last stage. The times in its record count from the exchange's start, as those of any call."""
        audits, order = self._audits, self._exchange.order
        site = Site(
            now=audits.now,
            call_later=audits.call_later,
            new_id=audits.new_id,
            emit=lambda record: self._asked(check, record),
            left=lambda phase: None,
            in_flight=set(),
        )
        asked = Order(
            exchange_id=order.exchange_id,
            request_id=order.request_id,
            route=order.route,
            plan=Failover((check.mirror.backend, *check.mirror.others)).plan(),
            targets=order.targets,
            measures=order.measures.beside(),
            policy_version=order.policy_version,
            release=lambda: None,  # the exchange still has its lease
            body=order.body,
            path=order.path,
            trace=order.trace,
            started=order.started,
            deadline=audits.now() + AUDIT_FOR_S,
        )
        check.asking = Exchange(site, asked, _Listener(check.reply))
        check.asking.start()

    def _asked(self, check: _Check, record: ExchangeRecord) -> None:
        """The call for the audit has ended."""
        check.asking = None
        check.calls = record.calls
        if check.why:
            return  # it was given up, by who waits for no more
        if record.code == 200:
            check.said_all = True
        else:
            check.why = _WHY.get(check.calls[-1].result, "error") if check.calls else "error"
        self._end_if_over()

    # The end.

    def _end_if_over(self) -> None:
        """Once the answer and every audit of it have ended, the record goes out."""
        if self._answered is None or not all(check.over for check in self._checks):
            return
        answered, self._answered = self._answered, None
        self._audits.running.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        answer = self._answer.said()
        records = tuple([self._judged(check, answer) for check in self._checks])
        for record in records:
            result = record.why if record.agreed is None else "agreed" if record.agreed else "disagreed"
            self._exchange.order.measures.audited(record.purpose, result)
        self._exchange.record(*answered, records)

    def _judged(self, check: _Check, answer: Said | None) -> AuditRecord:
        agreed: bool | None = None
        if not check.why:
            other = check.reply.said()
            if self._answer.too_long or check.reply.too_long:
                check.why = "too_long"
            else:
                agreed = self._agreed(check.mirror.agree, answer, other)
                check.why = "not_comparable" if agreed is None else ""
        call = check.calls[-1] if check.calls else None
        backend = check.mirror.backend if call is None else call.backend
        return AuditRecord(check.mirror.purpose, backend, agreed, check.why, call, check.calls[:-1])

    def _agreed(self, how: Agreement, answer: Said | None, other: Said | None) -> bool | None:
        if answer is None or other is None:
            return None
        try:
            return agree(how, answer, other)
        except Exception:
            log.exception("two replies could not be compared", extra={"exchange_id": self._exchange.order.exchange_id})
            return None


@final
class _Listener:
    """Takes a reply in the client's place (`gateway.wire.base.Reply`)."""

    def __init__(self, reader: SaidReader) -> None:
        self.observer: Observer | None = None
        self.started = False
        self.bytes_out = 0
        self._reader = reader

    def send(self, status: int, headers: bytes, body: bytes) -> None:
        self.write(body)

    def start(self, status: int, headers: bytes, first: bytes = b"") -> None:
        self.write(first)

    def write(self, data: bytes) -> None:
        self.started = True
        self.bytes_out += len(data)
        self._reader.feed(data)

    def end(self, last: bytes = b"") -> None:
        self.write(last)

    def abort(self) -> None: ...
