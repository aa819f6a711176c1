"""`headgate calibrate cascade`: from pairs of answers to a deferral threshold that keeps a promise, or the word that none does."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.cli.admin_client import add_admin_options
from gateway.cli.calibrate_records import from_records
from gateway.cli.options import whole
from gateway.cli.output import USAGE, WELL, CommandError, add_output, check_folder, hint, print_json, table
from policies import calibrated
from policies.calibrated import Binding, Calibration, CalibrationError
from policies.calibration import pairs, picture, procedure
from policies.deferral import FEATURES


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    cascade = actions.add_parser("cascade", help="choose when a cascade's stage defers")
    cascade.add_argument("--data", help="JSONL of pairs that choose the threshold: evidence or features, and quality of both answers")
    cascade.add_argument("--train", help="JSONL of other pairs to learn the score on (default: a random half of --data)")
    cascade.add_argument(
        "--from",
        dest="source",
        choices=("pairs", "records"),
        default="pairs",
        help="pairs: the lines of --data (default); records: what audits of a running gateway have found, of --route",
    )
    cascade.add_argument("--route", metavar="NAME", help="with --from records: the route whose cascade is calibrated")
    cascade.add_argument("--epsilon", type=float, default=0.01, help="quality that may be lost at most, 0..1 (default 0.01: one point)")
    cascade.add_argument("--confidence", type=float, default=0.95, help="of the promise (default 0.95)")
    cascade.add_argument("--cost", required=True, help="what a request costs on each model, in any unit: small=0.3,large=1")
    cascade.add_argument("--out", help="file to write; the curve goes beside it (.curve.json and .curve.png)")
    cascade.add_argument("--evaluate", help="JSONL of pairs to apply the calibration to")
    cascade.add_argument("--backend", help="the backend that the calibration is for")
    cascade.add_argument(
        "--prefix-tokens", type=whole(1, 131_072), help="judge the first N tokens of the evidence, as a hold of N does (default: all)"
    )
    cascade.add_argument(
        "--tokens", choices=("content", "tool_arguments", "all"), help="the tokens that the evidence is of (default content)"
    )
    cascade.add_argument("--evidence", choices=("logprobs", "logits"), help="what evidence holds (default logprobs)")
    cascade.add_argument("--seed", type=whole(0, 2**31), default=0, help="of the random halves, where there is no --train")
    add_admin_options(cascade)
    add_output(cascade)


def run(args: argparse.Namespace) -> int:
    recorded = args.source == "records"
    if not recorded and not args.data:
        raise CommandError("--data is missing: JSONL of pairs; or take the lines --from records", USAGE)
    if not recorded and args.route is not None:
        raise CommandError("--route has no meaning without --from records: the lines of --data are of no route", USAGE)
    try:
        cost = _cost(args.cost)
        terms = procedure.Terms(args.epsilon, args.confidence, *cost, "agreement" if recorded else "quality")
        terms.check()
    except CalibrationError as error:
        raise CommandError(str(error), USAGE) from error
    if args.out:
        check_folder(Path(args.out))
    lines = ""
    try:
        if recorded:
            data, binding, lines = from_records(args)
        else:
            binding = _binding(args)
            data = _read(args.data, binding)
        train = _read(args.train, binding) if args.train else None
        if train is not None and train.digest == data.digest:
            raise CommandError(
                "--train and --data have the same lines: a threshold that is chosen where the score was learned promises nothing"
            )
        found = procedure.calibrate(data, train, terms, binding, args.seed)
        judged = procedure.evaluate(found, _read(args.evaluate, binding)) if args.evaluate else None
    except CalibrationError as error:
        raise CommandError(str(error)) from error
    written = _write(Path(args.out), found) if args.out else []
    report = _report(found, judged, written) | ({"lines": lines} if lines else {})
    if args.output == "json":
        print_json(report)
    else:
        print(_text(found, judged) + (f"\n\n{lines}" if lines else ""))
    for path in written:
        hint(f"wrote {path}")
    if written:
        for doubt in _doubts(found):
            hint(f"warning: {doubt}")
    return WELL


def _doubts(found: Calibration) -> Iterator[str]:
    """Why no policy, or not every one, may name the file: what it will be refused for is better known before it is rolled out."""
    binding = found.binding
    foreign = [feature for feature in found.model.features if feature not in FEATURES]
    if foreign:
        known = ", ".join(FEATURES)
        yield f"no policy can go by it: it has learned from {', '.join(foreign)}, which a gateway does not compute; it computes {known}"
    if binding.backend is None:
        yield "no policy can go by it: it is for no backend; --backend NAME says whose replies the lines are of"
    if binding.prefix_tokens is None:
        yield "it judges whole replies, as hold: all does; for a hold of N tokens calibrate with --prefix-tokens N"


def _cost(text: str) -> tuple[float, float]:
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise CalibrationError(f"--cost is small=NUMBER,large=NUMBER, not {text!r}") from None
    if set(found) != {"small", "large"}:
        raise CalibrationError(f"--cost names small and large, each once, not {text!r}")
    return found["small"], found["large"]


def _binding(args: argparse.Namespace) -> Binding:
    return Binding(
        backend=args.backend, prefix_tokens=args.prefix_tokens, tokens=args.tokens or "content", evidence=args.evidence or "logprobs"
    )


def _read(name: str, binding: Binding) -> pairs.Pairs:
    try:
        with open(name, "rb") as lines:
            return pairs.read(lines, name, logits=binding.evidence == "logits", prefix_tokens=binding.prefix_tokens)
    except OSError as error:
        raise CommandError(f"cannot read {name}: {error.strerror}") from error


def _write(path: Path, found: Calibration) -> list[str]:
    """The calibration last, so that a file that is there is whole and has its curve."""
    try:
        curve = path.with_suffix(".curve.json")
        curve.write_bytes(picture.as_json(found))
        drawn = path.with_suffix(".curve.png")
        drawn.write_bytes(picture.as_png(found))
        part = path.with_name(path.name + ".part")
        part.write_bytes(calibrated.write(found))
        part.replace(path)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from error
    return [str(curve), str(drawn), str(path)]


def _report(found: Calibration, judged: dict[str, float | int] | None, written: list[str]) -> dict[str, Any]:
    report: dict[str, Any] = {
        "enabled": found.enabled,
        "promise": found.promise,
        "threshold": found.threshold,
        "test": found.test,
        "deferred": found.deferred,
        "loss": found.loss,
        "saving": found.saving,
        "rows": {"train": found.rows_trained, "calibrate": found.rows_calibrated},
        "features": found.model.features,
        "files": written,
    }
    return report | ({"evaluation": judged} if judged is not None else {})


def _text(found: Calibration, judged: dict[str, float | int] | None) -> str:
    rows: list[list[str]] = [["", "expected", f"with {100 * found.confidence:g} % confidence"]]
    for name, bounded, word in (
        ("deferred", found.deferred, "at most"),
        ("saving", found.saving, "at least"),
        ("loss", found.loss, "at most"),
    ):
        limit = bounded.lower if word == "at least" else bounded.upper
        rows.append([name, f"{100 * bounded.estimate:.1f} %", f"{word} {100 * limit:.1f} %"])
    lines = [found.promise, ""]
    if found.threshold is not None:
        lines += [table(rows), "", f"Defer where the score is below {found.threshold:.6g}. Learned from {', '.join(found.model.features)}."]
        if not found.enabled:
            lines.append("The threshold keeps the promise on quality, but no saving is shown: disabled.")
    if judged is not None:
        effect = f"deferred {judged['deferred']:.1%}, loss {judged['loss']:.2%}, saving {judged['saving']:.1%}"
        lines += ["", f"On {judged['rows']:,} other lines: {effect}."]
        if judged["unscored"]:
            lines.append(f"{judged['unscored']} of them had no score and count as deferred.")
    return "\n".join(lines)
