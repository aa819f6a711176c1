"""Which requests a match takes."""

from __future__ import annotations

from collections.abc import Mapping

from policies.schema import Match


class CompiledMatch:
    """One match, its conditions on labels and headers ready to be asked. The model has been looked up before."""

    __slots__ = ("_headers", "_labels")

    def __init__(self, match: Match) -> None:
        self._labels = _conditions(match.keys)
        self._headers = _conditions({name.lower(): values for name, values in match.headers.items()})

    def labels_fit(self, labels: Mapping[str, str]) -> bool:
        return _fit(self._labels, labels)

    def headers_fit(self, headers: Mapping[str, str]) -> bool:
        return _fit(self._headers, headers)


def _fit(conditions: tuple[tuple[str, frozenset[str]], ...], values: Mapping[str, str]) -> bool:
    for name, wanted in conditions:  # noqa: SIM110  `all` of a generator takes three times as long, and this is asked of every request
        if values.get(name) not in wanted:
            return False
    return True


def _conditions(wanted: Mapping[str, tuple[str, ...]]) -> tuple[tuple[str, frozenset[str]], ...]:
    return tuple((name, frozenset(values)) for name, values in wanted.items())


class Scope:
    """What a match takes, as sets: for comparing matches with each other."""

    __slots__ = ("_conditions", "models")

    def __init__(self, match: Match) -> None:
        self.models = frozenset(match.models)
        self._conditions = {("key", name): frozenset(values) for name, values in match.keys.items()}
        self._conditions |= {("header", name.lower()): frozenset(values) for name, values in match.headers.items()}

    def covers(self, other: Scope) -> bool:
        """Every request that the other takes, this takes too."""
        if self.models and not (other.models and other.models <= self.models):
            return False
        theirs = other._conditions
        return all(name in theirs and theirs[name] <= values for name, values in self._conditions.items())

    def overlaps(self, other: Scope) -> bool:
        """Some request could be taken by both."""
        if self.models and other.models and self.models.isdisjoint(other.models):
            return False
        theirs = other._conditions
        return not any(name in theirs and theirs[name].isdisjoint(values) for name, values in self._conditions.items())
