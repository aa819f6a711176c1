"""Where a replica listens, and how it is shown."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec


class Address(msgspec.Struct, frozen=True):
    """Where a replica listens; `http://host:8000/base` without the base."""

    host: str
    port: int
    tls: bool


def address_of(url: str) -> Address:
    """The address in a replica's URL; a missing port is the scheme's."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    return Address(parts.hostname or "", parts.port or (443 if tls else 80), tls)


class ReplicaView(msgspec.Struct, frozen=True):
    """One replica as this worker sees it, for the debug page."""

    url: str
    ready: bool
    breaker_open: bool
    outstanding: int
