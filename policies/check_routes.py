"""The checks of `routes` and of their matches, alone and against each other."""

from __future__ import annotations

from policies.document import below
from policies.errors import nearest, shown
from policies.findings import Findings
from policies.match import covers, overlap
from policies.schema import Match, Policy, Route

COMPARISONS_MAX = 1_000_000
"""Pairs of matches that are compared; in a file with more the rest goes without warnings."""
_UNITS = ("body:user", "key")


def check_route(findings: Findings, path: str, route: Route) -> None:
    """What is wrong with one route, whose place in the file is `path`."""
    for index, match in enumerate(route.matches):
        _check_match(findings, f"{path}.matches[{index}]", match)
    _check_answerer(findings, path, route)
    findings.without_repeats(f"{path}.segments", route.segments)
    for index, name in enumerate(route.segments):
        findings.refers(f"{path}.segments[{index}]", name, "segments", "segment")
    findings.without_repeats(f"{path}.unit", [source.lower() for source in route.unit])
    for index, source in enumerate(route.unit):
        _check_unit(findings, f"{path}.unit[{index}]", source)
    if findings.written(f"{path}.unit") and not route.unit:
        findings.error(f"{path}.unit", "the list is empty")


def _check_answerer(findings: Findings, path: str, route: Route) -> None:
    has_backend, has_failover = findings.written(f"{path}.backend"), findings.written(f"{path}.failover")
    if has_backend and has_failover:
        findings.error(path, "has both backend and failover", "keep one: the backends of a failover are a list of its own")
    elif not has_backend and not has_failover and findings.complete(path):
        findings.error(path, "has neither backend nor failover: nobody would answer")
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
        carried = {key.labels.get(label) for key in findings.policy.keys}
        if values and not carried & set(values):
            findings.warning(below(f"{path}.keys", label), f"no key has the label {label} with one of these values: this never matches")


def check_overlaps(findings: Findings) -> None:
    """Warnings, one for each match that an earlier route's match takes requests from: the first of them is named."""
    policy = findings.policy
    by_model: dict[str, list[tuple[str, Route, Match]]] = {}
    every: list[tuple[str, Route, Match]] = []
    comparisons = 0
    for number, route in enumerate(policy.routes):
        for index, match in enumerate(route.matches):
            here = f"routes[{number}].matches[{index}]"
            rivals = every if not match.models else [r for name in ("", *match.models) for r in by_model.get(name, ())]
            comparisons += len(rivals)
            if comparisons > COMPARISONS_MAX:
                return
            _warn_of_rivals(findings, here, route, match, rivals)
            entry = (here, route, match)
            every.append(entry)
            for name in match.models or ("",):
                by_model.setdefault(name, []).append(entry)


def _warn_of_rivals(findings: Findings, here: str, route: Route, match: Match, rivals: list[tuple[str, Route, Match]]) -> None:
    partly = ""
    for path, other, earlier in rivals:
        if other is route:
            continue
        if covers(earlier, match) and _keys_reach_first(findings.policy, other, route):
            findings.warning(here, f"never reached: {path} (route {other.name}) comes first and takes every request of it")
            return
        if not partly and overlap(earlier, match):
            partly = f"overlaps with {path} (route {other.name}), which comes first and takes the requests that fit both"
    if partly:
        findings.warning(here, partly)


def _keys_reach_first(policy: Policy, first: Route, second: Route) -> bool:
    """Every key that may use the second route may use the first."""
    return all(key.routes is None or second.name not in key.routes or first.name in key.routes for key in policy.keys)
