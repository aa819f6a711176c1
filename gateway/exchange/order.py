"""What an exchange is given: what every exchange of a worker shares, and the one request, decided."""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from gateway.exchange.measures import RouteMeasures
from gateway.exchange.recording import ContentKeeper
from gateway.exchange.snapshot import Target
from gateway.link.messages import ExchangeRecord
from gateway.protocol.body import Body
from gateway.telemetry.trace_context import TraceContext
from policies.plan import Plan

if TYPE_CHECKING:
    from gateway.exchange.executor import Exchange


class Site(msgspec.Struct, frozen=True):
    """What every exchange of a worker shares."""

    now: Callable[[], float]
    call_later: Callable[..., TimerHandle]
    new_id: Callable[[int], int]
    """So many random bits."""
    emit: Callable[[ExchangeRecord], None]
    left: Callable[[str], None]
    """Counts a client that left, by phase."""
    in_flight: set[Exchange]
    """Exchanges under way."""


class Order(msgspec.Struct):
    """One request, decided: what is to be done, and whose it is."""

    exchange_id: str
    request_id: str
    route: str
    plan: Plan
    targets: Mapping[str, Target]
    measures: RouteMeasures
    policy_version: str
    release: Callable[[], None]
    """Gives the snapshot's lease back."""
    body: Body
    path: bytes
    trace: TraceContext
    started: float
    deadline: float
    key: str = ""
    debug: bool = False
    unit: str = ""
    segments: tuple[tuple[str, str], ...] = ()
    keep_alive_after: float | None = None
    content: ContentKeeper | None = None

    def head(self, content_type: bytes, backend: str, reason: str) -> bytes:
        """The answer's header lines; `backend` is who served, "" where nobody did."""
        served = f"x-headgate-backend: {backend}\r\nx-headgate-reason: {reason}\r\n" if backend else ""
        lines = (
            f"\r\nx-request-id: {self.request_id}\r\nx-headgate-exchange-id: {self.exchange_id}\r\nx-headgate-route: {self.route}\r\n"
            f"x-headgate-policy-version: {self.policy_version}\r\n{served}"
        )
        return b"content-type: " + content_type + lines.encode("latin-1")
