"""Fits a detector: head, mix and calibration from texts. Pure, and the same for the same texts; what is heavy is said as it goes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from policies.ood.artifact import Detector, Facts
from policies.ood.calibrate import calibration
from policies.ood.encoder import Encoder
from policies.ood.energy import Scorer
from policies.ood.heads import Labels
from policies.ood.mixing import Mix, Progress, choose, splits
from policies.ood.table import NO_TABLE, Table
from policies.ood.text import TextKind
from policies.ood.train import Trainer, clusters, count

CLASSES_MIN = 4
"""With fewer, a quarter of them cannot be held out: clusters take their place."""
CLASSES_MAX = 512
TEXTS_MIN = 40
TEXTS_MAX = 200_000
STEPS = 9
"""Times that `progress` is called."""
_SEED = 20_031_009


class FitError(ValueError):
    """The texts cannot make a detector; the message says why."""


class Example(msgspec.Struct, frozen=True):
    """A guard text, with its class and segment where they are known."""

    text: str
    label: str | None = None
    segment: str | None = None


class Fitted(msgspec.Struct, frozen=True):
    """A detector, and what its report shows beside its facts."""

    detector: Detector
    mix: Mix
    holdout: NDArray[np.float64]
    """Scores of the held-out texts, in their order; those without a word or sign are left out."""
    outside: NDArray[np.float64]
    """Scores of held-out classes in the pseudo-OOD splits, by the same mix: of other heads, for a picture only."""


def fit(
    train: Sequence[Example], holdout: Sequence[Example], *, text: TextKind = "last_user",
    outliers: Sequence[Example] = (), table: Table = NO_TABLE,
    encoder: Encoder | None = None, progress: Progress = lambda step: None,
) -> Fitted:  # fmt: skip
    """Fit on `train`, calibrate on `holdout`, which must share no text with it by design: it carries the promise.

    `outliers`: reviewed out-of-distribution texts that the head is trained away from. `table`: pretrained vectors, which add the
    score `meaning`. `encoder`: adds scores of its vectors; the detector then needs it to score. Raises FitError or CalibrationError.
    """
    rng = np.random.default_rng(_SEED)
    train = _usable(train, "training texts")
    progress("reading")
    counts = count([each.text for each in train], table.vocabulary, encoder)
    trainer = Trainer(counts, table)
    labels, clustered = _labels(train, trainer, rng)
    found = splits(counts, labels, rng, progress, table)
    if not found:
        raise FitError("all but a few texts are of one class, or the same: none can play out of distribution")
    progress("mixing")
    mix = choose(found)
    progress("training")
    apart = count([each.text for each in _usable(outliers, "outliers", 1)], table.vocabulary, encoder) if outliers else None
    head = trainer.head(labels, rng, apart)._replace(mix=mix.weights)
    progress("calibrating")
    scores, segments = _scores(Scorer(head, encoder.encode if encoder else None), holdout)
    facts = Facts(
        text=text, scores=head.scores, mix=mix.shares, train_texts=len(train), holdout_texts=len(scores), outliers=len(outliers),
        classes=head.classes, encoder=encoder.fingerprint if encoder else "", clustered=clustered,
        pseudo_auroc=mix.auroc, pseudo_fpr95=mix.fpr95,
    )  # fmt: skip
    outside = np.concatenate([each.outside @ mix.weights for each in found]).astype(np.float64)
    return Fitted(Detector(head, calibration(scores, segments), facts), mix, scores, outside)


def _usable(examples: Sequence[Example], what: str, least: int = TEXTS_MIN) -> list[Example]:
    found = [each for each in examples if each.text and not each.text.isspace()]
    if not least <= len(found) <= TEXTS_MAX:
        raise FitError(f"{len(found)} {what} that are not blank; a detector needs {least} to {TEXTS_MAX}")
    return found


def _labels(train: Sequence[Example], trainer: Trainer, rng: np.random.Generator) -> tuple[Labels, bool]:
    """Class numbers, and whether they are clusters."""
    names = {each.label for each in train}
    if None in names and len(names) > 1:
        missing = sum(each.label is None for each in train)
        raise FitError(f"{missing} of {len(train)} training texts have no label: give all of them one, or none")
    if len(names) > CLASSES_MAX:
        raise FitError(f"{len(names)} labels; a detector takes at most {CLASSES_MAX}")
    if len(names) < CLASSES_MIN:
        return clusters(trainer.x, rng), True
    numbers = {name: number for number, name in enumerate(sorted(filter(None, names)))}
    if len(numbers) != len(names):
        raise FitError("a label is empty")
    return np.array([numbers[each.label or ""] for each in train], np.int64), False


def _scores(scorer: Scorer, holdout: Sequence[Example]) -> tuple[NDArray[np.float64], list[str | None]]:
    """Scored one by one, as live traffic is: a batch would differ in the last bits."""
    found = [(scored.score, each.segment) for each in holdout if (scored := scorer.score(each.text)).status == "ok"]
    return np.array([score for score, _ in found], np.float64), [segment for _, segment in found]
