"""Who can reach the data listener, and whether a policy may be in force there."""

from __future__ import annotations

import ipaddress

from policies.schema import Policy


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on `host`. Another name than `localhost` may mean anything."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_to_all(policy: Policy, host: str) -> str:
    """Why `policy` must not be in force while the data listener is on `host`: nobody would have to say who he is. "" where it may."""
    if policy.keys or policy.server.anonymous or is_loopback(host):
        return ""
    return f"no keys, and no `server: {{anonymous: true}}`: such a gateway listens on loopback only, not on {host}"
