"""A valid policy to the snapshot that workers ask. Everything a worker needs, and nothing that reads YAML."""

from __future__ import annotations

from heapq import merge
from operator import itemgetter

import msgspec

from policies.failover import Failover, Single
from policies.labels import CompiledSegment, unit_reader
from policies.match import CompiledMatch
from policies.plan import Rule
from policies.schema import Policy, Route
from policies.snapshot import Candidate, CompiledRoute, Needs, Snapshot


def encode(policy: Policy) -> bytes:
    """What a worker is sent: JSON, secrets filled in."""
    return msgspec.json.encode(policy, order="deterministic")


def decode(policy_json: bytes) -> Policy:
    """The inverse of `encode`, and of `policies.canonical.canonical`. Raises msgspec.ValidationError."""
    return msgspec.json.decode(policy_json, type=Policy)


def compile_policy(policy: Policy, version: str) -> Snapshot:
    """Of a policy that `policies.load.load` found valid; another one raises KeyError or ValueError."""
    routes = _compile_routes(policy)
    by_model, any_model = _index(policy, routes)
    return Snapshot(
        version=version,
        policy=policy,
        needs=_needs(policy),
        by_model=by_model,
        any_model=any_model,
        keys={bytes.fromhex(key.sha256): key for key in policy.keys},
    )


def compile_rule(route: Route) -> Rule:
    """What decides the requests of a route."""
    if route.backend is not None:
        return Single(route.backend)
    return Failover(route.failover)


def _compile_routes(policy: Policy) -> list[CompiledRoute]:
    segments = {segment.name: CompiledSegment(segment) for segment in policy.segments}
    return [
        CompiledRoute(
            route.name,
            index,
            compile_rule(route),
            route.keep_alive_after,
            tuple(segments[name] for name in route.segments),
            tuple(map(unit_reader, route.unit)),
        )
        for index, route in enumerate(policy.routes)
    ]


def _index(policy: Policy, routes: list[CompiledRoute]) -> tuple[dict[str, tuple[Candidate, ...]], tuple[Candidate, ...]]:
    """The candidates of every model name that the policy has, and those of any other name."""
    named: dict[str, list[tuple[int, Candidate]]] = {}
    any_model: list[tuple[int, Candidate]] = []
    position = 0
    for route, compiled in zip(policy.routes, routes, strict=True):
        for match in route.matches:
            candidate = Candidate(compiled, CompiledMatch(match) if match.keys or match.headers else None)
            for model in dict.fromkeys(match.models):
                named.setdefault(model, []).append((position, candidate))
            if not match.models:
                any_model.append((position, candidate))
            position += 1
    by_model = {model: tuple(c for _, c in merge(own, any_model, key=itemgetter(0))) for model, own in named.items()}
    return by_model, tuple(candidate for _, candidate in any_model)


def _needs(policy: Policy) -> Needs:
    used = {name for route in policy.routes for name in route.segments}
    sources = [segment.from_ for segment in policy.segments if segment.name in used]
    units = [source for route in policy.routes for source in route.unit]
    headers = {name for route in policy.routes for match in route.matches for name in match.headers}
    headers |= {source.removeprefix("header:") for source in (*sources, *units) if source.startswith("header:")}
    called = {name for route in policy.routes for name in compile_rule(route).backends()}
    return Needs(
        prompt_chars="prompt_chars" in sources,
        headers=frozenset(name.lower() for name in headers),
        user="body:user" in units,
        affinity=any(backend.balance == "prefix_hash" and backend.name in called for backend in policy.backends),
    )
