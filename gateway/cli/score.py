"""`headgate score ood`: what a detector says of texts, one line a text, by the code that scores live traffic."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from gateway.cli.options import between
from gateway.cli.output import USAGE, WELL, CommandError, add_output
from gateway.cli.pretrained import read_encoder
from gateway.cli.texts import read_lines
from policies.ood.artifact import ArtifactError, Detector, loads
from policies.ood.calibrate import CalibrationError
from policies.ood.energy import Scorer, Status


class Row(msgspec.Struct, frozen=True):
    """What is printed of one text; null where there is nothing to score."""

    energy: float | None
    score: float | None
    """Rises with OOD."""
    ood: bool | None
    status: Status


def configure(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    ood = kinds.add_parser("ood", help="is each text like those that the detector was fitted on?")
    ood.add_argument("--detector", metavar="FILE", required=True, help="made by `headgate fit ood`")
    ood.add_argument("--texts", metavar="FILE", required=True, help='JSON lines {"text" | "messages": ..., "segment"?: ...}')
    ood.add_argument("--keep-percent", type=between(50, 99.9), default=95.0, help="in-distribution texts to keep (default 95)")
    add_output(ood)


def run(args: argparse.Namespace) -> int:
    detector = load(args.detector)
    encode = read_encoder(detector.facts.encoder).encode if detector.head.encodes else None
    scorer, calibration = Scorer(detector.head, encode), detector.calibration
    thresholds: dict[str | None, float] = {}
    for line in read_lines(args.texts):
        segment = line.segment if line.segment in calibration.segments else None
        if segment not in thresholds:
            thresholds[segment] = threshold(detector, args.keep_percent, segment)
        scored = scorer.score(line.guard_text(detector.facts.text))
        row = Row(None, None, None, scored.status)
        if scored.status == "ok":
            row = Row(scored.energy, scored.score, scored.score > thresholds[segment], scored.status)
        print(msgspec.json.encode(row).decode() if args.output == "json" else text(row))
    return WELL


def load(path: str) -> Detector:
    """The detector of a file. Raises CommandError for one that cannot be used."""
    try:
        return loads(Path(path).read_bytes())
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}", USAGE) from None
    except ArtifactError as error:
        raise CommandError(f"{path}: {error}") from None


def threshold(detector: Detector, keep_percent: float, segment: str | None) -> float:
    try:
        return detector.calibration.threshold(keep_percent, segment).score
    except CalibrationError as error:
        raise CommandError(str(error), USAGE) from None


def text(row: Row) -> str:
    if row.status != "ok":
        return row.status
    return f"{'ood' if row.ood else 'in '}  score {row.score:.4f}  energy {row.energy:.4f}"
