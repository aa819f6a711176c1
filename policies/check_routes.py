"""The checks of `routes` and of their matches, alone and against each other."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from policies.check_cascade import check_cascade
from policies.check_guard import check_guard, check_hedge
from policies.document import below
from policies.errors import nearest, shown
from policies.findings import Findings
from policies.match import Scope
from policies.schema import Match, Policy, Route

COMPARISONS_MAX = 100_000
"""Pairs of matches that are compared; in a file with more the rest goes without warnings."""
_UNITS = ("body:user", "key")


def check_route(findings: Findings, path: str, route: Route) -> None:
    """What is wrong with one route, whose place in the file is `path`."""
    for index, match in enumerate(route.matches):
        _check_match(findings, f"{path}.matches[{index}]", match)
    _check_answerer(findings, path, route)
    if route.cascade is not None:
        check_cascade(findings, f"{path}.cascade", route, route.cascade)
    if route.guard is not None:
        check_guard(findings, f"{path}.guard", route, route.guard)
    if route.hedge is not None:
        check_hedge(findings, f"{path}.hedge", route, route.hedge)
    findings.without_repeats(f"{path}.segments", route.segments)
    for index, name in enumerate(route.segments):
        findings.refers(f"{path}.segments[{index}]", name, "segments", "segment")
    findings.without_repeats(f"{path}.unit", [source.lower() for source in route.unit])
    for index, source in enumerate(route.unit):
        _check_unit(findings, f"{path}.unit[{index}]", source)
    if findings.written(f"{path}.unit") and not route.unit:
        findings.error(f"{path}.unit", "the list is empty")


def _check_answerer(findings: Findings, path: str, route: Route) -> None:
    has_failover = findings.written(f"{path}.failover")
    answerers = [name for name in ("backend", "failover", "cascade") if findings.written(f"{path}.{name}")]
    if answerers == ["backend", "failover"]:
        findings.error(path, "has both backend and failover", "keep one: the backends of a failover are a list of its own")
    elif len(answerers) > 1:
        findings.error(path, f"has both {' and '.join(answerers[-2:])}", "keep one: a cascade names its backends itself")
    elif not answerers and findings.complete(path):
        findings.error(path, "has neither backend, failover nor cascade: nobody would answer")
    if route.backend:
        findings.refers(f"{path}.backend", route.backend, "backends", "backend")
    if has_failover and len(route.failover) < 2:
        findings.error(f"{path}.failover", "needs at least two backends", "for one, write backend")
    findings.without_repeats(f"{path}.failover", route.failover)
    for index, name in enumerate(route.failover):
        if name:
            findings.refers(f"{path}.failover[{index}]", name, "backends", "backend")


def _check_unit(findings: Findings, path: str, source: str) -> None:
    if source.startswith("header:"):
        findings.header(path, source.removeprefix("header:"))
    elif source not in _UNITS:
        findings.error(path, f"expected header:NAME, body:user or key, not {shown(source)}", nearest(source, ("header:NAME", *_UNITS)))


def _check_match(findings: Findings, path: str, match: Match) -> None:
    if not match.models and not match.keys and not match.headers and findings.complete(path):
        parts = [f"{path}.{name}" for name in ("models", "keys", "headers") if findings.written(f"{path}.{name}")]
        if not parts:
            findings.error(path, "a match needs models, keys or headers")
        for part in filter(findings.complete, parts):
            findings.error(part, "is empty and matches nothing")
        return
    if findings.written(f"{path}.models") and not match.models:
        findings.error(f"{path}.models", "is empty and matches nothing")
    findings.without_repeats(f"{path}.models", match.models)
    for index, model in enumerate(match.models):
        if model.endswith("*"):
            findings.error(f"{path}.models[{index}]", "wildcards are not supported", "name the models; a match without models takes any")
    for name, conditions in (("keys", match.keys), ("headers", match.headers)):
        for key, values in conditions.items():
            here = below(f"{path}.{name}", key)
            if not values:
                findings.error(here, "is empty and matches nothing")
            findings.without_repeats(here, values)
    lower: dict[str, str] = {}
    for header in match.headers:
        here = below(f"{path}.headers", header)
        findings.header(here, header)
        if lower.setdefault(header.lower(), header) != header:
            findings.error(here, f"the same header as {shown(lower[header.lower()])}: case does not count")
    _warn_of_labels(findings, path, match)


def _warn_of_labels(findings: Findings, path: str, match: Match) -> None:
    """Conditions on keys that no key of the file meets."""
    for label, values in match.keys.items():
        if values and not any((label, value) in findings.labels for value in values):
            findings.warning(below(f"{path}.keys", label), f"no key has the label {label} with one of these values: this never matches")


class _Placed(msgspec.Struct, frozen=True):
    """A match, where it stands, and whose it is."""

    path: str
    route: Route
    scope: Scope


def check_overlaps(findings: Findings) -> None:
    """Warnings, one for each match that an earlier route's match takes requests from: the first of them is named."""
    everyone_first = _reached_by_everyone_before(findings.policy)
    by_model: dict[str, list[_Placed]] = {}
    every: list[_Placed] = []
    comparisons = 0
    for number, route in enumerate(findings.policy.routes):
        for index, match in enumerate(route.matches):
            placed = _Placed(f"routes[{number}].matches[{index}]", route, Scope(match))
            rivals = every if not match.models else [rival for name in ("", *match.models) for rival in by_model.get(name, ())]
            comparisons += len(rivals)
            if comparisons > COMPARISONS_MAX:
                return
            _warn_of_rivals(findings, placed, rivals, everyone_first)
            every.append(placed)
            for name in match.models or ("",):
                by_model.setdefault(name, []).append(placed)


def _warn_of_rivals(findings: Findings, placed: _Placed, rivals: list[_Placed], everyone_first: Callable[[Route, Route], bool]) -> None:
    partly = ""
    for rival in rivals:
        if rival.route is placed.route:
            continue
        first = f"{rival.path} (route {rival.route.name})"
        if rival.scope.covers(placed.scope) and everyone_first(rival.route, placed.route):
            findings.warning(placed.path, f"never reached: {first} comes first and takes every request of it")
            return
        if not partly and rival.scope.overlaps(placed.scope):
            partly = f"overlaps with {first}, which comes first and takes the requests that fit both"
    if partly:
        findings.warning(placed.path, partly)


def _reached_by_everyone_before(policy: Policy) -> Callable[[Route, Route], bool]:
    """Whether every key that may use the second route may use the first."""
    restricted = {frozenset(key.routes) for key in policy.keys if key.routes is not None}
    return lambda first, second: all(second.name not in routes or first.name in routes for routes in restricted)
