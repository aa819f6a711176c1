"""A compiled policy: immutable, and asked once a request which route, which plan, which labels."""

from __future__ import annotations

from typing import Literal, final

import msgspec

from policies.detector import CompiledDetector
from policies.labels import CompiledSegment, Reader, first_unit
from policies.match import CompiledMatch
from policies.plan import Features, Plan, Rule
from policies.schema import Backend, Key, Policy, Route


class Needs(msgspec.Struct, frozen=True):
    """What the policy asks of a request: the rest of `Features` need not be filled in."""

    prompt_chars: bool
    headers: frozenset[str]
    """Lower case."""
    user: bool
    affinity: bool
    """Some backend balances by the prompt's beginning."""


class CompiledRoute:
    """One route, ready to decide."""

    __slots__ = ("_segments", "_unit", "backends", "has_unit", "index", "keep_alive_after", "name", "rule")

    def __init__(
        self,
        name: str,
        index: int,
        rule: Rule,
        keep_alive_after: float | None,
        segments: tuple[CompiledSegment, ...],
        unit: tuple[Reader, ...],
    ) -> None:
        self.name = name
        self.index = index
        self.rule = rule
        self.keep_alive_after = keep_alive_after
        """Seconds."""
        self.backends = rule.backends()
        self._segments = segments
        self._unit = unit
        self.has_unit = bool(unit)

    def segments(self, features: Features) -> tuple[tuple[str, str], ...]:
        return tuple([(segment.name, segment.value(features)) for segment in self._segments]) if self._segments else ()

    def unit(self, features: Features) -> str | None:
        return first_unit(self._unit, features) if self._unit else None


class Decision(msgspec.Struct, frozen=True, gc=False):
    """Who answers a request. The plan has not been started."""

    route: CompiledRoute
    plan: Plan
    segments: tuple[tuple[str, str], ...]
    unit: str | None
    """None where the route declares none, or the request has none of those it declares (`route.has_unit`)."""


@final
class NoRoute(msgspec.Struct, frozen=True):
    """No route takes the request: no such model, or a route would take it, but not with this key."""

    why: Literal["model_not_found", "permission"]


MODEL_NOT_FOUND = NoRoute("model_not_found")
PERMISSION = NoRoute("permission")


class Candidate(msgspec.Struct, frozen=True):
    """A match of a route, for one model name. None where it has no condition but the model."""

    route: CompiledRoute
    match: CompiledMatch | None


class Snapshot:
    """One version of the policy, compiled."""

    def __init__(
        self,
        *,
        version: str,
        policy: Policy,
        needs: Needs,
        by_model: dict[str, tuple[Candidate, ...]],
        any_model: tuple[Candidate, ...],
        keys: dict[bytes, Key],
        detectors: dict[str, CompiledDetector],
    ) -> None:
        """`by_model` holds the matches of `any_model` too, all in file order; `keys` goes by digest."""
        self.version = version
        self.policy = policy
        self.backends: dict[str, Backend] = {backend.name: backend for backend in policy.backends}
        self.needs = needs
        self.detectors = detectors
        """Those that some guard asks, by name."""
        self.digests = {name: each.digest for name, each in detectors.items()}
        """SHA-256 of the artifact of each of them, by name."""
        self.stateful = frozenset(route.name for route in policy.routes if _has_state(route))
        """The routes whose `RouteState` changes what they decide."""
        self._by_model = by_model
        self._any_model = any_model
        self._keys = keys
        self._restricted = {key.name: frozenset(key.routes) for key in policy.keys if key.routes is not None}

    def key(self, digest: bytes) -> Key | None:
        """The key whose SHA-256 this is."""
        return self._keys.get(digest)

    def models(self, key: Key | None) -> tuple[str, ...]:
        """The model names that the key may ask for, sorted; None: an anonymous request."""
        labels = key.labels if key else {}
        names: set[str] = set()
        for route in self.policy.routes:
            if key is None or key.routes is None or route.name in key.routes:
                names.update(*(match.models for match in route.matches if CompiledMatch(match).labels_fit(labels)))
        return tuple(sorted(names))

    def decide(self, features: Features) -> Decision | NoRoute:
        """The first route in file order that takes the request and that its key may use."""
        allowed = self._restricted.get(features.key) if features.key is not None else None
        refused = MODEL_NOT_FOUND
        for candidate in self._by_model.get(features.model, self._any_model):
            match, route = candidate.match, candidate.route
            if match is not None and not match.headers_fit(features.headers):
                continue
            if (match is not None and not match.labels_fit(features.labels)) or (allowed is not None and route.name not in allowed):
                refused = PERMISSION
                continue
            return Decision(route, route.rule.decide(features), route.segments(features), route.unit(features))
        return refused


def _has_state(route: Route) -> bool:
    cascade = route.cascade
    if cascade is None:
        return False
    return cascade.defer_limit is not None or (cascade.audit is not None and cascade.audit.on_violation != "alert")
