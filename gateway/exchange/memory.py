"""What a worker remembers of a route's requests, where its rule goes by more than the one request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from gateway.exchange.hedging import Hedging
from policies import schema
from policies.defer_limit import DeferralWindow, was_deferred
from policies.detector import CompiledDetector
from policies.plan import Judgement, RouteState


@final
class RouteMemory:
    """Of one route that has a guard, a cascade or a hedge. What was counted is taken over from the policy before, where the route's
    limit or hedge is the same: a reload of something else must not open the flood gates."""

    __slots__ = ("_hedge", "_limit", "detectors", "disabled", "hedging", "tightened", "window")

    def __init__(self, route: schema.Route, detectors: Mapping[str, CompiledDetector], before: RouteMemory | None) -> None:
        self.detectors = detectors
        self._limit = None if route.cascade is None else route.cascade.defer_limit
        self._hedge = route.hedge
        self.window: DeferralWindow | None = None
        """None without a `defer_limit`."""
        self.hedging: Hedging | None = None
        """None without a `hedge`."""
        self.tightened = 0
        self.disabled = False
        """What audits have done to the cascade: the controller says it."""
        if self._limit is not None:
            same = before is not None and before._limit == self._limit
            self.window = before.window if before is not None and same else DeferralWindow(self._limit.percent, self._limit.window)
        if self._hedge is not None:
            same = before is not None and before._hedge == self._hedge
            self.hedging = before.hedging if before is not None and same else Hedging(self._hedge.budget_percent)

    def state(self, now: float) -> RouteState:
        """What the rule goes by at this moment."""
        return RouteState(self.window is not None and self.window.exceeded(now), self.tightened, self.disabled)

    def judged(self, judgements: tuple[Judgement, ...], now: float) -> None:
        """An exchange is over."""
        if self.window is not None and (deferred := was_deferred(judgements)) is not None:
            self.window.count(now, deferred=deferred)


def memories(policy: schema.Policy, detectors: Mapping[str, CompiledDetector], before: Mapping[str, RouteMemory]) -> dict[str, RouteMemory]:
    """By route: those that need one."""
    return {
        route.name: RouteMemory(route, detectors, before.get(route.name))
        for route in policy.routes
        if route.guard is not None or route.cascade is not None or route.hedge is not None
    }
