"""The replicas of one backend: which are to be had, which one gets a call, and what each attempt's end says of its health."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, final

from gateway.telemetry.counters import Counter
from gateway.upstream.address import Address, ReplicaView, address_of
from gateway.upstream.balance import balancer
from gateway.upstream.replica import Connections, Replica
from policies.plan import CallError
from policies.schema import Backend

OpenPool: TypeAlias = Callable[[Address], Connections]
BreakerTurned: TypeAlias = Callable[[str, str, bool], None]
"""Told (backend, replica, open) when a breaker opens or closes."""


@final
class Replicas:
    """Ready comes from the probe by way of the overlay, broken from the calls themselves."""

    def __init__(self, backend: Backend, open_pool: OpenPool, broken: Counter, turned: BreakerTurned | None) -> None:
        """`broken` is the gauge of open breakers. Raises ValueError for an address or key that cannot be sent."""
        self._backend = backend.name
        self._all = tuple(Replica(url, open_pool(address_of(url)), backend.breaker, backend.api_key) for url in backend.replicas)
        self._balancer = balancer(backend.balance)
        self._broken = broken
        self._turned = turned

    def choose(self, tried: tuple[Replica, ...], affinity: int, now: float) -> Replica | None:
        """A usable replica, if possible none of those that have just refused."""
        replicas = self._all
        if len(replicas) == 1:
            return replicas[0] if replicas[0].usable(now) else None
        usable = [replica for replica in replicas if replica.usable(now)]
        if tried:
            usable = [replica for replica in usable if replica not in tried] or usable
        if len(usable) < 2:
            return usable[0] if usable else None
        return usable[self._balancer.choose(usable, affinity)]

    def has_other(self, tried: tuple[Replica, ...], now: float) -> bool:
        return any(replica not in tried and replica.usable(now) for replica in self._all)

    def named(self, urls: tuple[str, ...]) -> tuple[Replica, ...]:
        return tuple([replica for replica in self._all if replica.url in urls])

    def why_none(self) -> CallError:
        if any(replica.ready for replica in self._all):
            return CallError("breaker_open", "every ready replica has failed too often and is left alone for a while")
        return CallError("unready", "no replica is ready")

    def set_ready(self, states: Mapping[str, bool]) -> None:
        """One that is not named counts as ready: no probe has spoken yet."""
        for replica in self._all:
            replica.ready = states.get(replica.url, True)

    def judge(self, replica: Replica, now: float, *, failed: bool | None, trial: bool) -> None:
        """How an attempt ended, if it failed or was a trial; `failed` None: it says nothing of the replica."""
        breaker = replica.breaker
        was_open = breaker.is_open
        if failed:
            breaker.failed(now, trial=trial)
        elif trial and failed is None:
            breaker.abandoned()
        elif trial:
            breaker.answered()
        if (is_open := breaker.is_open) != was_open:
            self._broken.value += 1 if is_open else -1
            if self._turned is not None:
                self._turned(self._backend, replica.url, is_open)

    def views(self) -> list[ReplicaView]:
        return [ReplicaView(r.url, r.ready, r.breaker.is_open, r.outstanding) for r in self._all]

    def close_connections(self) -> None:
        """Let idle connections go; a call that still comes gets one of its own."""
        for replica in self._all:
            replica.connections.close()

    def forget(self) -> None:
        """Take this backend's open breakers out of the gauge; they are closed, so that a second time changes nothing."""
        for replica in self._all:
            if replica.breaker.is_open:
                self._broken.value -= 1
                replica.breaker.answered()
