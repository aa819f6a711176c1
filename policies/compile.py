"""A valid policy to the snapshot that workers ask. Everything a worker needs, and nothing that reads YAML."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import merge
from operator import itemgetter

import msgspec

from policies.detector import CompiledDetector
from policies.labels import CompiledSegment, unit_reader
from policies.match import CompiledMatch
from policies.rules import compile_rule
from policies.schema import Policy
from policies.snapshot import Candidate, CompiledRoute, Needs, Snapshot

NO_FILES: dict[str, bytes] = {}


def encode(policy: Policy) -> bytes:
    """What a worker is sent: JSON, secrets filled in."""
    return msgspec.json.encode(policy, order="deterministic")


def decode(policy_json: bytes) -> Policy:
    """The inverse of `encode`, and of `policies.canonical.canonical`. Raises msgspec.ValidationError."""
    return msgspec.json.decode(policy_json, type=Policy)


def compile_policy(policy: Policy, version: str, files: Mapping[str, bytes] = NO_FILES) -> Snapshot:
    """Of a policy that `policies.load.load` found valid, with what its files hold; another one raises KeyError or ValueError, or
    `CalibrationError`."""
    routes = _compile_routes(policy, files)
    by_model, any_model = _index(policy, routes)
    guarding = {route.guard.detector for route in policy.routes if route.guard is not None}
    return Snapshot(
        version=version,
        policy=policy,
        needs=_needs(policy, routes),
        by_model=by_model,
        any_model=any_model,
        keys={bytes.fromhex(key.sha256): key for key in policy.keys},
        detectors={each.name: CompiledDetector(each, files[each.artifact]) for each in policy.detectors if each.name in guarding},
    )


def _compile_routes(policy: Policy, files: Mapping[str, bytes]) -> list[CompiledRoute]:
    segments = {segment.name: CompiledSegment(segment) for segment in policy.segments}
    return [
        CompiledRoute(
            route.name,
            index,
            compile_rule(route, policy, files),
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


def _needs(policy: Policy, routes: list[CompiledRoute]) -> Needs:
    used = {name for route in policy.routes for name in route.segments}
    sources = [segment.from_ for segment in policy.segments if segment.name in used]
    units = [source for route in policy.routes for source in route.unit]
    headers = {name for route in policy.routes for match in route.matches for name in match.headers}
    headers |= {source.removeprefix("header:") for source in (*sources, *units) if source.startswith("header:")}
    called = {name for route in routes for name in route.backends}
    return Needs(
        prompt_chars="prompt_chars" in sources,
        headers=frozenset(name.lower() for name in headers),
        user="body:user" in units,
        affinity=any(backend.balance == "prefix_hash" and backend.name in called for backend in policy.backends),
    )
