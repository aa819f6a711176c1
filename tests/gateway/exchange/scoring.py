"""The scoring process, played by hand."""

from __future__ import annotations

from collections.abc import Callable

from policies.detector import CompiledDetector
from policies.plan import Assessment


class Asked:
    """One question, answered by the test."""

    def __init__(
        self, detector: CompiledDetector, text: str, segment: str | None, until: float, take: Callable[[Assessment], None]
    ) -> None:
        self.detector, self.text, self.segment, self.until = detector, text, segment, until
        self.take = take
        self.forgotten = False

    def forget(self) -> None:
        assert not self.forgotten
        self.forgotten = True


class Process:
    """`gateway.scoring.base.Scoring`, played by hand."""

    def __init__(self, *, away: bool = False) -> None:
        self.away = away
        self.questions: list[Asked] = []

    def ask(
        self, detector: CompiledDetector, text: str, segment: str | None, until: float, take: Callable[[Assessment], None]
    ) -> Asked | None:
        if self.away:
            return None
        self.questions.append(Asked(detector, text, segment, until, take))
        return self.questions[-1]
