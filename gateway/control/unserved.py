"""What the policy language can say and `headgate serve` does not do yet. `check`, `explain` and `diff` know it already."""

from __future__ import annotations

from policies.schema import Policy

UNSERVED: tuple[str, ...] = ("guard", "cascade", "hedge")
"""Keys of a route whose verbs the executor does not drive. The one switch: empty it once it does, and drop this module."""


def unserved(policy: Policy) -> list[str]:
    """Why the policy cannot be put in force, one reason for each such key; empty where it can."""
    return [
        f"routes[{index}].{key}: route {route.name} has a {key}, and headgate serve does not support that yet"
        for index, route in enumerate(policy.routes)
        for key in UNSERVED
        if getattr(route, key) is not None
    ]
