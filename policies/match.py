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


def covers(wide: Match, narrow: Match) -> bool:
    """Every request that `narrow` takes, `wide` takes too."""
    if wide.models and not (narrow.models and set(narrow.models) <= set(wide.models)):
        return False
    return _conditions_cover(wide.keys, narrow.keys) and _conditions_cover(_lower(wide.headers), _lower(narrow.headers))


def overlap(one: Match, other: Match) -> bool:
    """Some request could be taken by both."""
    if one.models and other.models and not set(one.models) & set(other.models):
        return False
    return _conditions_meet(one.keys, other.keys) and _conditions_meet(_lower(one.headers), _lower(other.headers))


def _lower(headers: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {name.lower(): values for name, values in headers.items()}


def _conditions_cover(wide: Mapping[str, tuple[str, ...]], narrow: Mapping[str, tuple[str, ...]]) -> bool:
    return all(name in narrow and set(narrow[name]) <= set(values) for name, values in wide.items())


def _conditions_meet(one: Mapping[str, tuple[str, ...]], other: Mapping[str, tuple[str, ...]]) -> bool:
    return all(name not in other or set(values) & set(other[name]) for name, values in one.items())
