"""The two plain rules: one backend, or the next one when a call fails."""

from __future__ import annotations

from policies.hedge import Hedge, kept
from policies.plan import Answer, Call, CallError, Features, Outcome, Plan, Race, Reason, ask


class Single:
    """Ask the one backend and answer what came of it."""

    __slots__ = ("_call",)

    def __init__(self, backend: str) -> None:
        self._call = Call(backend)

    def decide(self, features: Features) -> Plan:
        outcome = yield self._call  # the most common plan of all: no generator within the generator
        assert isinstance(outcome, Outcome)
        return Answer(outcome)

    def backends(self) -> tuple[str, ...]:
        return (self._call.backend,)


class Failover:
    """Ask the backends in order until one begins to answer; the client gets the last failure if none does."""

    __slots__ = ("_backends", "_hedge_backend", "_verbs")

    def __init__(self, backends: tuple[str, ...], hedge: Hedge | None = None) -> None:
        if not backends:
            raise ValueError("a failover needs a backend")
        self._backends = backends
        self._hedge_backend = hedge.backend if hedge is not None else None
        calls = [Call(backend) for backend in backends]
        self._verbs: tuple[Call | Race, ...] = tuple(calls)
        if hedge is not None:
            self._verbs = (hedge.of_first(calls[0]), *map(hedge.of_stage, calls[1:]))

    def decide(self, features: Features) -> Plan:
        return self.plan()

    def plan(self, keep: tuple[int, ...] = ()) -> Plan:
        """The same for any request; `keep` are earlier calls of the exchange that go on meanwhile."""
        reason: Reason = "primary"
        outcome = yield from ask(kept(self._verbs[0], keep))
        hedged = self._hedge_backend if outcome.sent > 1 else None
        for backend, verb in zip(self._backends[1:], self._verbs[1:], strict=True):
            if outcome.error is None or not helped_by_another(outcome.error):
                break
            if backend == hedged:
                continue  # it was in the race, and failed
            reason = "failover"
            outcome = yield from ask(kept(verb, keep))
        return Answer(outcome, "hedge" if outcome.place else reason)

    def backends(self) -> tuple[str, ...]:
        more = (self._hedge_backend,) if self._hedge_backend is not None else ()
        return tuple(dict.fromkeys((*self._backends, *more)))


def helped_by_another(error: CallError) -> bool:
    """Whether another backend could do better: not when the request is at fault, its time is up or the client has left."""
    return not error.request_at_fault and in_time(error)


def in_time(error: CallError) -> bool:
    """Whether anything could still be done: the time is not up and the client is there."""
    return error.kind not in ("deadline", "cancelled")
