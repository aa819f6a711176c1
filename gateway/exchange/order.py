"""What an exchange is given: what every exchange of a worker shares, and the one request, decided."""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, final

from gateway.exchange.measures import RouteMeasures
from gateway.exchange.recording import ContentKeeper
from gateway.exchange.snapshot import Target
from gateway.link.messages import ExchangeRecord
from gateway.protocol.body import Body
from gateway.scoring.base import Scoring
from gateway.telemetry.trace_context import TraceContext
from policies.plan import Plan

if TYPE_CHECKING:
    from gateway.exchange.audits import Audits
    from gateway.exchange.executor import Exchange


@final
class Site:
    """What every exchange of a worker shares."""

    __slots__ = ("audits", "call_later", "emit", "in_flight", "left", "new_id", "now", "scoring")

    def __init__(
        self,
        *,
        now: Callable[[], float],
        call_later: Callable[..., TimerHandle],
        new_id: Callable[[int], int],
        emit: Callable[[ExchangeRecord], None],
        left: Callable[[str], None],
        in_flight: set[Exchange],
        audits: Audits | None = None,
        scoring: Scoring | None = None,
    ) -> None:
        self.now = now
        self.call_later = call_later
        self.new_id = new_id
        """So many random bits."""
        self.emit = emit
        self.left = left
        """Counts a client that left, by phase."""
        self.in_flight = in_flight
        """Exchanges under way."""
        self.audits = audits
        """None: nothing is audited, whatever a policy wants."""
        self.scoring = scoring
        """None: what they would be asked is unscored."""


@final
class Order:
    """One request, decided: what is to be done, and whose it is."""

    __slots__ = (
        "body",
        "content",
        "deadline",
        "debug",
        "exchange_id",
        "keep_alive_after",
        "key",
        "measures",
        "path",
        "plan",
        "policy_version",
        "release",
        "request_id",
        "route",
        "segments",
        "started",
        "targets",
        "trace",
        "unit",
    )

    def __init__(
        self,
        exchange_id: str,
        request_id: str,
        route: str,
        plan: Plan,
        targets: Mapping[str, Target],
        measures: RouteMeasures,
        policy_version: str,
        release: Callable[[], None],
        body: Body,
        path: bytes,
        trace: TraceContext,
        started: float,
        deadline: float,
        key: str = "",
        debug: bool = False,
        unit: str = "",
        segments: tuple[tuple[str, str], ...] = (),
        keep_alive_after: float | None = None,
        content: ContentKeeper | None = None,
    ) -> None:
        self.exchange_id = exchange_id
        self.request_id = request_id
        self.route = route
        self.plan = plan
        self.targets = targets
        self.measures = measures
        self.policy_version = policy_version
        self.release = release
        """Gives the snapshot's lease back."""
        self.body = body
        self.path = path
        self.trace = trace
        self.started = started
        self.deadline = deadline
        self.key = key
        self.debug = debug
        self.unit = unit
        self.segments = segments
        self.keep_alive_after = keep_alive_after
        self.content = content

    def head(self, content_type: bytes, backend: str, reason: str) -> bytes:
        """The answer's header lines; `backend` is who served, "" where nobody did."""
        served = f"x-headgate-backend: {backend}\r\nx-headgate-reason: {reason}\r\n" if backend else ""
        lines = (
            f"\r\nx-request-id: {self.request_id}\r\nx-headgate-exchange-id: {self.exchange_id}\r\nx-headgate-route: {self.route}\r\n"
            f"x-headgate-policy-version: {self.policy_version}\r\n{served}"
        )
        return b"content-type: " + content_type + lines.encode("latin-1")
