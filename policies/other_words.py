"""Words that are keys elsewhere: of other gateways, proxies and clients, or of another group of the policy. Who writes one is told the
right word, or the right place."""

from __future__ import annotations

from typing import Final

from policies.fields import Group, groups

OTHER_WORDS: Final = {
    "backends": ("clusters", "model_list", "providers", "upstreams"),
    "replicas": (
        *("address", "addresses", "api_base", "api_url", "base_url", "base_urls", "endpoint", "endpoints", "host", "hosts", "instances"),
        *("server", "servers", "target", "targets", "uri", "upstream", "upstreams", "url", "urls"),
    ),
    "kind": ("engine", "provider", "type"),
    "balance": ("lb_policy", "load_balancing", "routing_strategy"),
    "breaker": ("circuit_breaker", "outlier_detection"),
    "readiness": ("health_check", "health_checks", "healthcheck", "readiness_probe"),
    "failover": ("fallback", "fallbacks"),
}  # fmt: skip
"""By key of the policy, whatever group it is in."""


def words_here(name: str) -> tuple[str, ...]:
    """The keys that may be meant: `("replicas",)` for `base_url`."""
    return tuple(key for key, others in OTHER_WORDS.items() if name in others)


def belongs(name: str, shape: Group) -> str:
    """`it belongs in routes[]` for a key of another group in `shape`, under that name or one of other gateways; "" where there is none."""
    if name == "name":
        return ""
    for key in (*words_here(name), name):
        places = sorted(
            path or "the top level" for path, group in groups(shape) if key in (*(field.name for field in group.fields), *group.later)
        )
        if places:
            return f"it belongs in {places[0]}" + (f', as "{key}"' if key != name else "")
    return ""
