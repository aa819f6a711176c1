"""`headgate fit ood`: an OOD detector from the texts that a model was trained for, and a report of how well it does."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gateway.cli.histogram import Group, histogram
from gateway.cli.options import between
from gateway.cli.output import USAGE, WELL, CommandError, add_output, check_folder, hint, print_json, readable
from gateway.cli.pretrained import PRETRAINED, Pretrained, read_encoder, read_table
from gateway.cli.texts import read_lines
from gateway.scoring.pretrained import installed
from policies.ood.artifact import dumps
from policies.ood.calibrate import TEXTS_ADVISED, CalibrationError, threshold
from policies.ood.fit import STEPS, Example, FitError, Fitted, fit
from policies.ood.table import NO_TABLE
from policies.ood.text import TEXT_KINDS, TextKind

_BAR = 24


def configure(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    ood = kinds.add_parser("ood", help="a detector of requests that a model was not trained for")
    lines = 'JSON lines {"text" | "messages": ..., "label"?: ..., "segment"?: ...}'
    ood.add_argument("--train", metavar="FILE", required=True, help=f"what the model was trained for: {lines}")
    ood.add_argument("--holdout", metavar="FILE", required=True, help="other texts of the same kind, for the threshold; 500 or more")
    ood.add_argument("--outliers", metavar="FILE", help="reviewed texts that are out of distribution: the head is trained away from them")
    ood.add_argument("--out", metavar="FILE", required=True, help="the detector (.npz); a picture is written beside it (.svg)")
    ood.add_argument("--text", choices=TEXT_KINDS, default="last_user", help="what of a request is scored (default last_user)")
    ood.add_argument(
        "--pretrained", choices=PRETRAINED, default="auto",
        help="vectors of words from the extra `ood`; `encoder`: of sentences too, which takes milliseconds a text (default auto: a table "
        "where it is installed)",
    )  # fmt: skip
    ood.add_argument("--keep-percent", type=between(50, 99.9), default=95.0, help="in-distribution texts to keep (default 95)")
    add_output(ood)


def run(args: argparse.Namespace) -> int:
    train, holdout = (examples(path, args.text) for path in (args.train, args.holdout))
    outliers = examples(args.outliers, args.text) if args.outliers else []
    known = {each.text for each in train}
    fresh = [each for each in holdout if each.text not in known]
    _check(fresh, len(holdout), args.keep_percent)
    check_folder(Path(args.out), USAGE)
    wanted: Pretrained = args.pretrained
    if wanted == "auto":
        wanted = "table" if installed() else "none"
    table = read_table() if wanted != "none" else NO_TABLE
    encoder = read_encoder() if wanted == "encoder" else None
    try:
        fitted = fit(train, fresh, text=args.text, outliers=outliers, table=table, encoder=encoder, progress=progress())
        report = describe(fitted, args.keep_percent) | {"pretrained": wanted, "holdout_texts_trained_on": len(holdout) - len(fresh)}
    except (FitError, CalibrationError) as error:
        raise CommandError(str(error), USAGE) from None
    picture = Path(args.out).with_suffix(".svg")
    write(Path(args.out), dumps(fitted.detector))
    write(picture, draw(fitted, report["threshold"]["score"]).encode())
    report |= {"detector": args.out, "picture": str(picture)}
    if args.output == "json":
        print_json(report)
    else:
        print(readable(report))
    if len(fitted.holdout) < TEXTS_ADVISED:
        hint(f"\nwarning: {len(fitted.holdout)} held-out texts; with {TEXTS_ADVISED} or more the kept share is known better")
    return WELL


def _check(fresh: list[Example], held: int, keep_percent: float) -> None:
    """Before the minutes that a fit takes. Raises CommandError where the held-out texts are too few for a threshold."""
    fit_for_it = sum(bool(each.text.strip()) for each in fresh)
    try:
        threshold(np.zeros(fit_for_it), keep_percent)
    except CalibrationError as error:
        known = f": {held - len(fresh)} of --holdout are in --train, too" if len(fresh) < held else ""
        raise CommandError(f"{error}{known}", USAGE) from None


def examples(path: str, kind: TextKind) -> list[Example]:
    """The texts of a file; lines without one (only images) are left out."""
    found = ((line.guard_text(kind), line) for line in read_lines(path))
    return [Example(text, None if line.label is None else str(line.label), line.segment) for text, line in found if text is not None]


def describe(fitted: Fitted, keep_percent: float) -> dict[str, Any]:
    """The report."""
    facts, calibration = fitted.detector.facts, fitted.detector.calibration
    thresholds = {name: calibration.threshold(keep_percent, name) for name in calibration.segments}
    return {
        "train_texts": facts.train_texts,
        "holdout_texts": facts.holdout_texts,
        "outliers": facts.outliers,
        "classes": facts.classes,
        "clustered": facts.clustered,
        "pseudo_ood": {"auroc": fitted.mix.auroc, "fpr95": fitted.mix.fpr95, "auroc_of_each": fitted.mix.singles, "mix": facts.mix},
        "keep_percent": keep_percent,
        "threshold": shown(calibration.threshold(keep_percent)),
        "segments": {name: shown(each) for name, each in thresholds.items()},
    }


def shown(threshold: Any) -> dict[str, object]:
    return {
        "score": threshold.score,
        "texts": threshold.texts,
        "kept_percent_90_interval": [round(100 * threshold.kept_low, 2), round(100 * threshold.kept_high, 2)],
    }


def draw(fitted: Fitted, mark: float) -> str:
    inside = Group("held-out texts", "#2a6fb0", fitted.holdout.tolist())
    outside = Group("held-out classes (pseudo-OOD)", "#d1622b", fitted.outside.tolist())
    return histogram("Scores: higher is less like the training texts", [inside, outside], mark)


def write(path: Path, data: bytes) -> None:
    """All of a file or none of it: a gateway may be serving what it replaces."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CommandError(f"{path}: {error.strerror}", USAGE) from None


def progress() -> Callable[[str], None]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda step: None
    done = 0

    def advance(step: str) -> None:
        nonlocal done
        done += 1
        full = _BAR * done // STEPS
        end = "\n" if done == STEPS else ""
        print(f"\r[{'#' * full}{'.' * (_BAR - full)}] {step:<24}", end=end, file=sys.stderr, flush=True)

    return advance
