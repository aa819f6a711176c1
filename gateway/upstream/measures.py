"""The counters of one backend, each looked up once."""

from __future__ import annotations

from typing import Final, final, get_args

from gateway.telemetry.counters import Counters
from gateway.upstream.failures import REFUSALS
from policies.plan import ErrorKind

RETRIED: Final = (*sorted(REFUSALS), "status:429", "status:503")
"""Results of attempts that may be tried again."""


@final
class Measures:
    """Gauges are moved, never set: an old and a new version of a backend count into the same child for a while."""

    __slots__ = (
        "breaker_open",
        "duration",
        "first_token",
        "in_flight",
        "queue_depth",
        "queue_full",
        "queue_timeout",
        "results",
        "retries",
        "retries_denied",
    )

    def __init__(self, counters: Counters, backend: str) -> None:
        counter = counters.counter
        self.results = {result: counter("headgate_upstream_calls_total", backend, result) for result in ("ok", *get_args(ErrorKind))}
        self.retries = {result: counter("headgate_upstream_retries_total", backend, result) for result in RETRIED}
        self.retries_denied = counter("headgate_upstream_retries_denied_total", backend)
        self.breaker_open = counter("headgate_upstream_breaker_open", backend)
        self.in_flight = counter("headgate_upstream_in_flight", backend)
        self.queue_depth = counter("headgate_upstream_queue_depth", backend)
        self.queue_full = counter("headgate_upstream_queue_refused_total", backend, "full")
        self.queue_timeout = counter("headgate_upstream_queue_refused_total", backend, "timeout")
        self.duration = counters.histogram("headgate_upstream_call_duration_seconds", backend)
        self.first_token = counters.histogram("headgate_upstream_first_token_seconds", backend)
