"""A detector in use: from a guard text to an assessment. numpy is imported when the first one is opened, not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.ood.text import TextKind
from policies.plan import Assessment
from policies.schema_rules import Detector, Threshold

if TYPE_CHECKING:
    from policies.ood.artifact import Detector as Fitted

KEEP_PERCENT = 95.0
"""Where the policy gives no threshold."""
UNAVAILABLE = Assessment("unavailable")


class DetectorError(ValueError):
    """The file is no detector that can be used here, or not with this threshold; the message says why."""


class CompiledDetector:
    """One detector of the policy, ready to be asked. Keeps what it computed for words, up to a limit; not for several threads at once."""

    __slots__ = ("_scorer", "_threshold", "_thresholds", "name", "text")

    def __init__(self, detector: Detector, data: bytes) -> None:
        """Raises DetectorError."""
        from policies.ood.energy import Scorer

        fitted = open_artifact(data)
        self.name = detector.name
        self.text: TextKind = fitted.facts.text
        """What of a request is scored."""
        self._scorer = Scorer(fitted.head)
        self._threshold = threshold_of(fitted, detector.threshold, None)
        self._thresholds = {name: threshold_of(fitted, detector.threshold, name) for name in fitted.calibration.segments}

    def threshold(self, segment: str | None = None) -> float:
        """A score above it is out of distribution."""
        return self._thresholds.get(segment, self._threshold) if segment is not None else self._threshold

    def assess(self, text: str | None, segment: str | None = None) -> Assessment:
        """Of a guard text; None, or a text without a word or sign, is unavailable."""
        found = self._scorer.score(text)
        if found.status != "ok" or found.score != found.score:
            return UNAVAILABLE
        return Assessment("ok", found.score, found.energy, found.score <= self.threshold(segment))


def open_artifact(data: bytes) -> Fitted:
    """Raises DetectorError for what is no detector of this version, or one that is too slow to serve with."""
    from policies.ood.artifact import ArtifactError, loads

    try:
        found = loads(data)
    except ArtifactError as error:
        raise DetectorError(str(error)) from error
    if found.head.encodes:
        raise DetectorError(
            "the detector needs a sentence encoder, milliseconds a text, which is not supported yet where requests are served: "
            "fit it with --pretrained table"
        )
    return found


def threshold_of(fitted: Fitted, threshold: Threshold, segment: str | None) -> float:
    """The threshold as the policy says it, of one segment where that has its own. Raises DetectorError."""
    from policies.ood.calibrate import CalibrationError

    if threshold.score is not None:
        return threshold.score
    try:
        return fitted.calibration.threshold(threshold.keep_percent if threshold.keep_percent is not None else KEEP_PERCENT, segment).score
    except CalibrationError as error:
        raise DetectorError(str(error)) from error
