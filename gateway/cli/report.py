"""`headgate report cascade`: what the cascades of a running gateway defer, save and, as audits show, lose."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any

from gateway.cli.admin_client import add_admin_options, ask
from gateway.cli.output import USAGE, WELL, CommandError, add_output, print_json, table

STATES = {
    "not_audited": "not audited: nobody looks whether it loses anything",
    "no_promise": "no promise: no stage is calibrated, so there is nothing to hold the loss against",
    "unconfirmed": "unconfirmed: nothing speaks against the promise, but too few audits speak for it",
    "kept": "kept: the loss is at most what was promised",
    "broken": "broken: more was lost than was promised",
    "disabled": "disabled: more was lost than was promised, and everything goes to the last stage",
}


def configure(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    cascade = kinds.add_parser("cascade", help="what each cascade defers, saves and loses")
    cascade.add_argument("--route", metavar="NAME", help="this route's alone")
    add_admin_options(cascade)
    add_output(cascade)


def run(args: argparse.Namespace) -> int:
    answer = ask(args, "GET", "/cascades")
    found = [each for each in answer["cascades"] if args.route in (None, each["route"])]
    if args.route is not None and not found:
        raise CommandError(f"no route {args.route!r} with a cascade is in force", USAGE)
    if args.output == "json":
        print_json({**answer, "cascades": found})
    elif found:
        print("\n\n".join(as_text(each) for each in found))
        print(f"\nloss: accepted share x share of audited answers that disagree with the last stage's. saving: {answer['saving']}.")
    else:
        print("no route has a cascade")
    return WELL


def as_text(found: dict[str, Any]) -> str:
    """One cascade for people."""
    rows = [("promise", STATES.get(found["state"], found["state"]))]
    rows.append(("requests", f"{found['requests']:,} since {_when(found['since'])}{_deferred(found)}"))
    if found["state"] != "not_audited":
        rows.append(("audits", _audits(found)))
        rows.append(("loss", _loss(found)))
        rows += _violations(found)
        if found["deferred_audited"]:
            rows.append(
                (
                    "deferred",
                    f"{found['deferred_agreed']:,} of {found['deferred_audited']:,} audited deferred replies agree with the answer",
                )
            )
    rows.append(("saving", _saving(found)))
    return f"route {found['route']}\n{table(rows)}"


def _deferred(found: dict[str, Any]) -> str:
    if found["deferred_share"] is None:
        return ""
    low = f", {found['low_confidence']:,} served with low confidence" if found["low_confidence"] else ""
    return f", {found['deferred_share']:.1%} of them deferred{low}"


def _audits(found: dict[str, Any]) -> str:
    untold = ", ".join(f"{count:,} {why}" for why, count in sorted(found["untold"].items()))
    told = f"{found['audited']:,} accepted answers, {found['disagreed']:,} disagree with the last stage's"
    return told + (f"; could not be told: {untold}" if untold else "")


def _loss(found: dict[str, Any]) -> str:
    promised = f"; {found['epsilon']:.2%} promised" if found["epsilon"] is not None else ""
    if found["loss"] is None:
        return f"not known yet{promised}"
    bounds = f"{found['loss_lower']:.2%} to {found['loss_upper']:.2%}"
    return (
        f"{found['loss']:.2%}, each bound with {found['confidence']:.0%} confidence {bounds} ({found['bounded_audits']:,} audits){promised}"
    )


def _violations(found: dict[str, Any]) -> list[tuple[str, str]]:
    if not found["violations"]:
        return []
    follows = {
        "alert": "the policy asks for an alert alone",
        "tighten": f"thresholds tightened, step {found['tightened']}",
        "disable": "everything goes to the last stage",
    }
    return [("violations", f"{found['violations']}, last {_when(found['violated_at'])}; {follows[found['on_violation']]}")]


def _saving(found: dict[str, Any]) -> str:
    cost = found["cost"]
    if cost is None:
        return f"not known: {found['no_cost']}"
    spent, alone = (f"{cost[name]:.6g}" for name in ("spent", "all_to_last"))
    return f"{cost['saving']:.1%} ({spent} instead of {alone} {cost['currency']}); audits cost {cost['audits']:.6g}"


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
