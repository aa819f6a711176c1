"""A second call beside one that is slow to answer: the first that begins to answer serves."""

from __future__ import annotations

from msgspec.structs import replace

from policies import schema_rules
from policies.plan import Call, Race


class Hedge:
    """Turns calls into races. `replicated`: the backends with more than one replica, where the hedge goes to a replica."""

    __slots__ = ("_after", "_backend", "_budget_percent", "_replicated")

    def __init__(self, hedge: schema_rules.Hedge, replicated: frozenset[str]) -> None:
        self._after = hedge.after
        self._budget_percent = hedge.budget_percent
        self._backend = None if hedge.to == schema_rules.TO_REPLICA else hedge.to
        self._replicated = replicated

    @property
    def backend(self) -> str | None:
        """The backend that is asked beside another; None where it is a replica of the same."""
        return self._backend

    def of_stage(self, call: Call) -> Call | Race:
        """Of a call whose reply is judged by what is known of its backend: another backend cannot stand in for it."""
        return self._race(call, call, True) if self._backend is None and call.backend in self._replicated else call

    def of_first(self, call: Call) -> Call | Race:
        """Of the first call of a route, or of a cascade's last stage: another backend may stand in."""
        if self._backend is None:
            return self.of_stage(call)
        return self._race(call, replace(call, backend=self._backend), False) if call.backend != self._backend else call

    def _race(self, first: Call, second: Call, other_replica: bool) -> Race:
        return Race((first, second), self._after, self._budget_percent, other_replica)


def kept(verb: Call | Race, keep: tuple[int, ...]) -> Call | Race:
    """The same, while earlier calls go on."""
    if not keep:
        return verb
    if isinstance(verb, Call):
        return replace(verb, keep=keep)
    return replace(verb, calls=tuple(replace(call, keep=keep) for call in verb.calls))
