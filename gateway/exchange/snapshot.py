"""The compiled policy in use: leased once an exchange, swapped in one assignment, retired with its last lease."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Final, final

import msgspec

from gateway.exchange.measures import RouteMeasures
from gateway.exchange.memory import RouteMemory, memories
from gateway.link.messages import CascadeState
from gateway.telemetry.counters import Counter, Counters
from gateway.upstream.base import Upstream
from gateway.upstream.kinds import watched
from policies import schema
from policies.plan import RouteState
from policies.snapshot import Snapshot

_NUMBERS: Final = itertools.count(1)

PREPARED_MAX: Final = 4
"""Prepared versions waiting for their swap: a controller that never swaps must not pile them up."""


@final
class Target:
    """A backend that a plan may call: how it is reached, and what the policy says of it."""

    __slots__ = ("backend", "upstream", "watched")

    def __init__(self, backend: schema.Backend, upstream: Upstream) -> None:
        self.backend = backend
        self.upstream = upstream
        self.watched = watched(backend)


@final
class Live:
    """One policy version with everything it needs to serve."""

    def __init__(
        self,
        snapshot: Snapshot,
        targets: Mapping[str, Target],
        counters: Counters,
        on_retired: Callable[[Live], None],
        before: Mapping[str, RouteMemory],
    ) -> None:
        """`before`: what is remembered of the routes of the policy in force."""
        self.number: int = next(_NUMBERS)
        """No other of this process has it, not even one of the same version."""
        self.snapshot = snapshot
        self.version = snapshot.version
        self.deadline = snapshot.policy.server.deadline
        """Seconds."""
        content = snapshot.policy.records.content
        self.stored = content if content.store else None
        """What is kept of what is said; None: nothing."""
        self.targets = targets
        self.memories = memories(snapshot.policy, snapshot.detectors, before)
        self.stateful = snapshot.stateful
        self.measures = {
            route.name: RouteMeasures(route.name, snapshot.policy, counters, self.memories.get(route.name))
            for route in snapshot.policy.routes
        }
        self.unrouted = RouteMeasures("", snapshot.policy, counters)
        self.leases = 0
        self._retired = False
        self._on_retired = on_retired

    def states(self, now: float) -> dict[str, RouteState]:
        """Of the routes that have one, at this moment."""
        return {name: self.memories[name].state(now) for name in self.stateful}

    def set_cascades(self, states: Iterable[CascadeState]) -> None:
        """What audits have done to the cascades of these routes, and to no others."""
        known = {state.route: state for state in states}
        for name, memory in self.memories.items():
            state = known.get(name)
            memory.tightened = 0 if state is None else state.tightened
            memory.disabled = state is not None and state.disabled

    def lease(self) -> None:
        self.leases += 1

    def release(self) -> None:
        """Give a lease back; the last one of a retired version lets its upstreams go."""
        self.leases -= 1
        if self._retired and not self.leases:
            self._on_retired(self)

    def retire(self) -> None:
        self._retired = True
        if not self.leases:
            self._on_retired(self)


@final
class Snapshots:
    """What is in force and what is prepared. Preparing may fail and changes nothing; swapping cannot fail.

    Backends that a new version leaves as they were keep their upstream, and with it their connections, breakers and queues.
    """

    def __init__(self, open_upstream: Callable[[schema.Backend], Upstream], counters: Counters) -> None:
        self.current: Live | None = None
        self._open_upstream = open_upstream
        self._counters = counters
        self._alive: Counter = counters.counter("headgate_snapshots_alive")
        self._prepared: dict[str, Live] = {}
        self._upstreams: dict[bytes, tuple[Upstream, int]] = {}
        self._cascades: tuple[CascadeState, ...] = ()

    @property
    def upstreams(self) -> list[Upstream]:
        """Every upstream that some version still holds."""
        return [upstream for upstream, _ in self._upstreams.values()]

    def prepare(self, snapshot: Snapshot) -> None:
        """Make the upstreams of a version that is to come. Preparing a version twice replaces the first."""
        targets: dict[str, Target] = {}
        try:
            for name, backend in snapshot.backends.items():
                targets[name] = Target(backend, self._hold(backend))
        except Exception:
            self._release(targets)
            raise
        live = Live(snapshot, targets, self._counters, self._let_go, {} if self.current is None else self.current.memories)
        self._alive.value += 1
        self.discard(snapshot.version)
        while len(self._prepared) >= PREPARED_MAX:
            self.discard(next(iter(self._prepared)))
        self._prepared[snapshot.version] = live
        live.set_cascades(self._cascades)

    def set_cascades(self, states: tuple[CascadeState, ...]) -> None:
        """What audits have done to cascades, from now on; those of other routes are as the policy says."""
        self._cascades = states
        for live in (self.current, *self._prepared.values()):
            if live is not None:
                live.set_cascades(states)

    def discard(self, version: str) -> None:
        """Forget a prepared version."""
        live = self._prepared.pop(version, None)
        if live is not None:
            live.retire()

    def swap(self, version: str) -> None:
        """Put a prepared version in force. KeyError where it was not prepared."""
        live = self._prepared.pop(version)
        before, self.current = self.current, live
        if before is not None:
            before.retire()

    def _hold(self, backend: schema.Backend) -> Upstream:
        key = msgspec.json.encode(backend)
        upstream, holders = self._upstreams.get(key) or (self._open_upstream(backend), 0)
        self._upstreams[key] = (upstream, holders + 1)
        return upstream

    def _let_go(self, live: Live) -> None:
        self._alive.value -= 1
        self._release(live.targets)

    def _release(self, targets: Mapping[str, Target]) -> None:
        for target in targets.values():
            key = msgspec.json.encode(target.backend)
            upstream, holders = self._upstreams[key]
            if holders > 1:
                self._upstreams[key] = (upstream, holders - 1)
            else:
                del self._upstreams[key]
                upstream.close()
