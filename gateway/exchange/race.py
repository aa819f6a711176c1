"""A race under way: the first call, the second beside it once it is slow, and which of them it comes to."""

from __future__ import annotations

from asyncio import TimerHandle
from typing import TYPE_CHECKING, final

from msgspec.structs import replace

from gateway.exchange.hedging import Hedging
from policies.plan import Outcome, Race

if TYPE_CHECKING:
    from gateway.exchange.executor import Exchange


@final
class RaceRun:
    """The calls of a race have numbers in a row: nothing else is sent meanwhile."""

    __slots__ = ("_exchange", "_failed", "_first", "_hedging", "_over", "_timer", "_verb")

    def __init__(self, exchange: Exchange, verb: Race, hedging: Hedging) -> None:
        self._exchange = exchange
        self._verb = verb
        self._hedging = hedging
        self._first = len(exchange.legs)
        """The number of its first call."""
        self._failed = 0
        self._timer: TimerHandle | None = None
        self._over = False

    def started(self) -> None:
        """The first call is under way: the clock starts."""
        self._hedging.budget.called()
        self._wait()

    def _wait(self) -> None:
        verb = self._verb
        if len(self._exchange.legs) - self._first >= len(verb.calls):
            return
        delay = self._hedging.delay(verb.calls[0].backend, verb.after)
        if delay is not None:
            self._timer = self._exchange.call_later(delay, self._send)

    def _send(self) -> None:
        """The calls so far are slow: the next one, if the budget has it and there is somebody to ask."""
        self._timer = None
        if self._over or self._failed:
            return
        exchange, verb = self._exchange, self._verb
        legs = exchange.legs[self._first :]
        following = verb.calls[len(legs)]
        avoid: tuple[str, ...] = ()
        if verb.other_replica:
            # One that still waits for its turn is at no replica: a second call would only wait behind it.
            if not all(leg.call.attempts for leg in legs):
                return
            avoid = tuple([leg.call.attempts[-1].replica for leg in legs])
            if not exchange.order.targets[following.backend].upstream.has_other(avoid):
                exchange.order.measures.hedged("no_replica")
                return
        if not self._hedging.budget.spend():
            exchange.order.measures.hedged("over_budget")
            return
        exchange.order.measures.hedged("sent")
        exchange.race_on(following, tuple(range(self._first, self._first + len(legs))), avoid)
        if not self._over:
            self._wait()

    def took(self, outcome: Outcome) -> Outcome | None:
        """A call has come to something; what the race came to, None while it goes on."""
        sent = len(self._exchange.legs) - self._first
        place = outcome.call - self._first
        if outcome.error is not None:
            self._failed += 1
            if self._failed < sent:
                return None
        first = self._exchange.legs[self._first]
        if outcome.error is None:
            # A first call that failed says nothing of how long one takes; one that is beaten has taken at least so long.
            if first.error is None:
                self._hedging.took(first.target.backend.name, (first.judged_at or self._exchange.now()) - first.started_at)
            if place:
                self._exchange.order.measures.hedged("won")
        self.stop()
        return replace(outcome, place=place, sent=sent)

    def stop(self) -> None:
        """Nothing more is sent."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
