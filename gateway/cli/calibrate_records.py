"""`headgate calibrate cascade --from records`: the lines come from the audits of a running gateway."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.cli.admin_client import ask
from gateway.cli.explain import from_json
from gateway.cli.output import USAGE, CommandError
from gateway.link.messages import ExchangeRecord
from gateway.records.lines import Found, gather
from policies.calibrated import Binding
from policies.calibration.pairs import Pairs

PAGES_MAX = 100_000
"""Of 2,000 records each."""


def from_records(args: argparse.Namespace) -> tuple[Pairs, Binding, str]:
    """Lines of the route that was asked for, what a calibration of them is bound to, and in words what they are.

    Raises:
        CommandError: They are no fair sample, or there are none.
    """
    given = [name for name in ("data", "train", "backend", "prefix_tokens", "tokens", "evidence") if getattr(args, name) is not None]
    if given:
        raise CommandError(f"--{given[0].replace('_', '-')} has no meaning with --from records: the policy in force says it", USAGE)
    if not args.route:
        raise CommandError("--from records needs --route: the route whose cascade is calibrated", USAGE)
    policy = ask(args, "GET", "/policy")["policy"]
    stage, binding = _stage(policy, args.route)
    report = next((each for each in ask(args, "GET", "/cascades")["cascades"] if each["route"] == args.route), None)
    if report is None:
        raise CommandError(f"no route {args.route!r} with a cascade is in force", USAGE)
    percents = {version: (float(accepted), float(deferred)) for version, (accepted, deferred) in report["versions"].items()}
    _both_sides(args.route, percents)
    found = gather(_audited(args), args.route, stage, percents)
    deferred = sum(line.deferred for line in found.lines)
    if not found.lines:
        raise CommandError(f"no audited answer of {stage} is among the records of route {args.route}{_left_out(found)}")
    if report["deferred_share"] and not deferred:
        raise CommandError(
            f"no deferred reply of {stage} was audited, and the route defers {report['deferred_share']:.1%}: without them nothing is known "
            f"of lower thresholds{_left_out(found)}"
        )
    return found.pairs(), binding, _words(found, stage, deferred)


def _stage(policy: Mapping[str, Any], route: str) -> tuple[str, Binding]:
    """The one stage of the route's cascade, and what its calibration is bound to."""
    cascade = next((each["cascade"] for each in policy["routes"] if each["name"] == route), None)
    if cascade is None:
        raise CommandError(f"the policy in force has no route {route!r} with a cascade", USAGE)
    if len(cascade["stages"]) > 1:
        raise CommandError(
            f"route {route} has {len(cascade['stages'])} stages: --from records supports one, since audits compare with the answer, which "
            "a later stage may have given"
        )
    stage = cascade["stages"][0]
    name, hold = stage["backend"], stage["hold"]
    evidence = next(each["evidence"] for each in policy["backends"] if each["name"] == name)
    prefix = hold["tokens"] if isinstance(hold, dict) else None
    return name, Binding(backend=name, prefix_tokens=prefix, tokens=stage["tokens"], evidence=evidence)


def _both_sides(route: str, percents: Mapping[str, tuple[float, float]]) -> None:
    if any(min(each) > 0 for each in percents.values()):
        return
    side = "deferred" if any(accepted > 0 for accepted, _ in percents.values()) else "accepted"
    raise CommandError(
        f"the {side} replies of route {route} were never audited: a threshold cannot be chosen from the other ones alone. Set "
        f"audit.{side}_percent, and come back once there are a few thousand audits"
    )


def _audited(args: argparse.Namespace) -> Iterator[ExchangeRecord]:
    """Every audited record of the route, oldest first."""
    after: int | None = 0
    for _ in range(PAGES_MAX):
        page = ask(args, "GET", "/audited", params={"route": args.route, "after": after})
        yield from map(from_json, page["exchanges"])
        after = page["next"]
        if after is None:
            return


def _left_out(found: Found) -> str:
    parts = [
        (found.other_policies, "of other policies, or of ones that do not audit both sides"),
        (found.unscored, "without a score"),
        (found.unrelated, "not made (too many at once, or the gateway stopped)"),
        (found.thinned, "left out so that accepted and deferred ones weigh the same"),
    ]
    told = ", ".join(f"{count:,} {why}" for count, why in parts if count)
    return f" (audits that are no lines: {told})" if told else ""


def _words(found: Found, stage: str, deferred: int) -> str:
    untold = f" {found.untold:,} could not be told and count as disagreements." if found.untold else ""
    return (
        f"{len(found.lines):,} audited requests, {deferred:,} of them deferred{_left_out(found)}.{untold} Quality is agreement: 1 where "
        f"the answers of {stage} and of the last stage agree, else 0; whether an answer is right is not known."
    )
