"""What the policy language can say and `headgate serve` does not do yet. `check`, `explain` and `diff` know it already."""

from __future__ import annotations

from policies.schema import Policy


def unserved(policy: Policy) -> list[str]:
    """Why the policy cannot be put in force, one reason for each such key; empty where it can."""
    return [
        f"routes[{index}].cascade.audit: route {route.name} has an audit, and headgate serve does not support that yet"
        for index, route in enumerate(policy.routes)
        if route.cascade is not None and route.cascade.audit is not None
    ]
