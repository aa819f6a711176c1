"""Where a worker's records go, as the exchange sees it."""

from __future__ import annotations

from typing import Protocol

from gateway.link.messages import ExchangeRecord


class RecordSink(Protocol):
    """Takes records off the hot path."""

    def emit(self, record: ExchangeRecord) -> None:
        """Take `record`, or drop and count it. Never waits and never raises."""
        ...
