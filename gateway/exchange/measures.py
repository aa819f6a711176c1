"""A route's counters, resolved once when its policy is prepared, so that counting a request is a few integer additions."""

from __future__ import annotations

from typing import final

from gateway.exchange.memory import RouteMemory
from gateway.telemetry.counters import Counter, Counters
from policies import schema
from policies.plan import Judgement


@final
class BackendMeasures:
    """Tokens and cost of one backend on one route."""

    __slots__ = ("cost", "currency", "input_price", "input_tokens", "output_price", "output_tokens")

    def __init__(self, route: str, backend: schema.Backend, counters: Counters) -> None:
        price = backend.price
        self.input_tokens = counters.counter("headgate_tokens_total", route, backend.name, "input")
        self.output_tokens = counters.counter("headgate_tokens_total", route, backend.name, "output")
        self.currency = None if price is None else price.currency
        self.cost = None if price is None else counters.counter("headgate_cost_total", route, backend.name, price.currency)
        self.input_price = 0.0 if price is None else price.input / price.per_tokens
        self.output_price = 0.0 if price is None else price.output / price.per_tokens

    def count(self, input_tokens: int, output_tokens: int) -> float | None:
        """Count one reply's tokens; its cost, None where the backend has no price."""
        self.input_tokens.value += input_tokens
        self.output_tokens.value += output_tokens
        if self.cost is None:
            return None
        cost = input_tokens * self.input_price + output_tokens * self.output_price
        self.cost.value += cost
        return cost


@final
class RouteMeasures:
    """Everything counted about one route."""

    def __init__(self, route: str, policy: schema.Policy | None, counters: Counters, memory: RouteMemory | None = None) -> None:
        """Without a policy there are no backends to count."""
        self.memory = memory
        """None where the route's rule goes by the request alone."""
        self._route = route
        self._counters = counters
        self._requests: dict[tuple[str, int], Counter] = {}
        self._segments: dict[tuple[str, str], Counter] = {}
        self.duration = counters.histogram("headgate_request_duration_seconds", route)
        self.first_token = counters.histogram("headgate_time_to_first_token_seconds", route)
        self.overhead = counters.histogram("headgate_overhead_seconds", route)
        self.hold = counters.histogram("headgate_hold_seconds", route)
        self.unit_missing = counters.counter("headgate_unit_missing_total", route)
        backends = policy.backends if policy is not None and route else ()
        self.backends = {backend.name: BackendMeasures(route, backend, counters) for backend in backends}

    def request(self, reason: str, code: int) -> None:
        """Count one answered request. The codes are those that Headgate itself or an HTTP backend can give: a bounded set."""
        key = (reason, code)
        child = self._requests.get(key)
        if child is None:
            child = self._requests[key] = self._counters.counter("headgate_requests_total", self._route, reason, str(code))
        child.value += 1

    def segment(self, label: tuple[str, str]) -> None:
        """Count a request of a segment; values come from the policy file."""
        child = self._segments.get(label)
        if child is None:
            child = self._segments[label] = self._counters.counter("headgate_segment_requests_total", self._route, *label)
        child.value += 1

    def ood(self, ood: str) -> None:
        """Count a request that a guard looked at."""
        self._counters.counter("headgate_ood_total", self._route, ood).value += 1

    def judged(self, judgement: Judgement) -> None:
        """Count a stage of a cascade: what its reply's scores rested on, and why it was deferred or served beyond the limit."""
        if judgement.call is not None and judgement.by not in ("error", "no_rule"):
            self._counters.counter("headgate_score_status_total", self._route, judgement.backend, judgement.status).value += 1
        if judgement.deferred:
            self._counters.counter("headgate_deferrals_total", self._route, judgement.backend, judgement.by).value += 1
        elif judgement.by == "defer_limit":
            self._counters.counter("headgate_defer_limited_total", self._route).value += 1

    def audited(self, purpose: str, result: str) -> None:
        """Count an audit: agreed, disagreed, or why it could not be told."""
        self._counters.counter("headgate_audits_total", self._route, purpose, result).value += 1

    def beside(self) -> RouteMeasures:
        """For calls that no client waits for: their tokens and cost are the route's, and nothing else of them counts as its."""
        measures = RouteMeasures("", None, Counters())
        measures.backends = self.backends
        return measures

    def hedged(self, result: str) -> None:
        """Count what became of a second call: sent, won, over_budget or no_replica."""
        self._counters.counter("headgate_hedges_total", self._route, result).value += 1
