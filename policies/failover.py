"""The two plain rules: one backend, or the next one when a call fails."""

from __future__ import annotations

from policies.plan import Answer, Call, CallError, Features, Outcome, Plan, call


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

    __slots__ = ("_backends",)

    def __init__(self, backends: tuple[str, ...]) -> None:
        if not backends:
            raise ValueError("a failover needs a backend")
        self._backends = backends

    def decide(self, features: Features) -> Plan:
        first, *others = self._backends
        outcome = yield from call(first)
        for backend in others:
            if outcome.error is None or not helped_by_another(outcome.error):
                break
            outcome = yield from call(backend)
        return Answer(outcome, "primary" if outcome.backend == first else "failover")

    def backends(self) -> tuple[str, ...]:
        return self._backends


def helped_by_another(error: CallError) -> bool:
    """Whether another backend could do better: not when the request is at fault, its time is up or the client has left."""
    return not error.request_at_fault and error.kind not in ("deadline", "cancelled")
