"""A detector in use: from a guard text to an assessment. numpy is imported when the first one is opened, not before."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from policies.ood.text import TextKind
from policies.plan import Assessment
from policies.schema_rules import Detector, Threshold

if TYPE_CHECKING:
    from policies.ood.artifact import Detector as Fitted

KEEP_PERCENT = 95.0
"""Where the policy gives no threshold."""
UNAVAILABLE = Assessment("unavailable")
UNANSWERED = Assessment("unavailable", unanswered=True)
INLINE_BYTES_MAX = 256 * 1024
"""What a text may fetch of a detector's rows on an event loop: some 0.1 milliseconds, where memory is slow."""
DETECTORS_MAX = 16
"""Artifacts of a policy: each takes 20 to 110 MB of every process that asks it."""
SLOW_MAX = 4
"""Those of them that need an encoder: milliseconds a text, and one process asks them all."""


class DetectorError(ValueError):
    """The file is no detector that can be used here, or not with this threshold; the message says why."""


class CompiledDetector:
    """One detector of the policy, ready to be asked. Keeps what it computed for words, up to a limit; not for several threads at once.

    A text that costs more than an event loop should be held up for is left to a process of its own, which asks the same detector by its
    `digest`; what it found is judged here. With a sentence encoder that is every text.
    """

    __slots__ = ("_rows_max", "_scorer", "_threshold", "_thresholds", "digest", "name", "text")

    def __init__(self, detector: Detector, data: bytes) -> None:
        """Raises DetectorError."""
        from policies.ood.energy import Scorer

        fitted = open_artifact(data)
        self.name = detector.name
        self.text: TextKind = fitted.facts.text
        """What of a request is scored."""
        self.digest = sha256(data).hexdigest()
        """SHA-256 of the artifact."""
        self._scorer = None if fitted.head.encodes else Scorer(fitted.head)
        self._rows_max = 0 if self._scorer is None else INLINE_BYTES_MAX // self._scorer.row_bytes
        self._threshold = threshold_of(fitted, detector.threshold, None)
        self._thresholds = {name: threshold_of(fitted, detector.threshold, name) for name in fitted.calibration.segments}

    def threshold(self, segment: str | None = None) -> float:
        """A score above it is out of distribution."""
        return self._thresholds.get(segment, self._threshold) if segment is not None else self._threshold

    def assess(self, text: str | None, segment: str | None = None, *, inline: bool = False) -> Assessment | None:
        """Of a guard text; None, or a text without a word or sign, is unavailable. Returns None where it cannot be said here: it takes a
        sentence encoder or, `inline`, more than an event loop should be held up for."""
        if text is None:
            return UNAVAILABLE
        if self._scorer is None:
            return None
        found = self._scorer.score_within(text, self._rows_max) if inline else self._scorer.score(text)
        if found.status == "dear":
            return None
        if found.status != "ok" or found.score != found.score:
            return UNAVAILABLE
        return self.judged(found.score, found.energy, segment)

    def judged(self, score: float, energy: float, segment: str | None = None) -> Assessment:
        """What a score means."""
        return Assessment("ok", score, energy, score <= self.threshold(segment))


def open_artifact(data: bytes) -> Fitted:
    """Raises DetectorError for what is no detector of this version."""
    from policies.ood.artifact import ArtifactError, loads

    try:
        return loads(data)
    except ArtifactError as error:
        raise DetectorError(str(error)) from error


def threshold_of(fitted: Fitted, threshold: Threshold, segment: str | None) -> float:
    """The threshold as the policy says it, of one segment where that has its own. Raises DetectorError."""
    from policies.ood.calibrate import CalibrationError

    if threshold.score is not None:
        return threshold.score
    try:
        return fitted.calibration.threshold(threshold.keep_percent if threshold.keep_percent is not None else KEEP_PERCENT, segment).score
    except CalibrationError as error:
        raise DetectorError(str(error)) from error
