"""What an exchange sees of the scoring process, which scores what would hold up the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from policies.detector import CompiledDetector
from policies.plan import Assessment


class Asked(Protocol):
    """One question that is under way."""

    def forget(self) -> None:
        """Nobody waits for the answer any more."""
        ...


class Scoring(Protocol):
    """Asks detectors elsewhere, and never waits."""

    def ask(
        self, detector: CompiledDetector, text: str, segment: str | None, until: float, take: Callable[[Assessment], None]
    ) -> Asked | None:
        """`take` is told what was found once, later, never during this call; at the latest at `until` (`time.monotonic`), or after
        a time that the implementation sets, with an assessment that is unavailable. None: it cannot be asked now."""
        ...
