"""`headgate check POLICY`: everything that is wrong with a policy file, or what it does in short."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from gateway.cli.output import WELL, WRONG, CommandError, add_output, hint, print_json, table
from gateway.cli.policy_file import counted, load_file
from gateway.control.policy_file import problem
from policies.errors import PolicyError, Problem
from policies.load import Loaded
from policies.rules import last_backends
from policies.schema import Match, Route
from policies.schema_rules import DeferWhen


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", metavar="POLICY", nargs="+", help="policy files")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    results = [(path, check(path)) for path in args.policy]
    if args.output == "json":
        print_json([as_json(path, result) for path, result in results])
    else:
        for path, result in results:
            if isinstance(result, CommandError):
                hint(f"headgate check: {result}")
            else:
                print(as_text(path, result))
    return max(exit_code(result) for _, result in results)


def exit_code(result: Loaded | PolicyError | CommandError) -> int:
    """The worst counts: a file that cannot be read is a mistake in the command, and nothing is known of it."""
    return result.exit_code if isinstance(result, CommandError) else WRONG if isinstance(result, PolicyError) else WELL


def check(path: str) -> Loaded | PolicyError | CommandError:
    """The policy, or all that is wrong with it, or why it cannot be read."""
    try:
        loaded = load_file(path)
    except (PolicyError, CommandError) as error:
        return error
    for warning in loaded.warnings:
        hint(f"warning: {warning}")
    return loaded


def as_json(path: str, result: Loaded | PolicyError | CommandError) -> dict[str, object]:
    if isinstance(result, CommandError):
        result = PolicyError([problem(path, str(result))])
    problems: Sequence[Problem] = result.problems if isinstance(result, PolicyError) else ()
    warnings: Sequence[Problem] = () if isinstance(result, PolicyError) else result.warnings
    version = None if isinstance(result, PolicyError) else result.version
    return {"file": path, "ok": not problems, "version": version, "problems": problems, "warnings": warnings}


def as_text(path: str, result: Loaded | PolicyError) -> str:
    """The problems, one a line; or who answers what."""
    if isinstance(result, PolicyError):
        return "\n".join([*map(str, result.problems), f"{path} is wrong: {counted(len(result.problems), 'problem')}"])
    policy = result.policy
    who = counted(len(policy.keys), "key") if policy.keys else "no keys"
    if policy.server.anonymous:
        who += ", open to anyone"
    elif not policy.keys:
        who += ", loopback only"
    routes = [(route.name, " or ".join(map(conditions, route.matches)), "->", answered_by(route)) for route in policy.routes]
    backends = [(each.name, each.kind, each.model, " ".join(each.replicas)) for each in policy.backends]
    return "\n".join([f"{path} is right: version {result.version}, {who}", "routes", table(routes), "backends", table(backends)])


def conditions(match: Match) -> str:
    """What a match asks for, in one line."""
    parts = [f"model {', '.join(match.models)}"] if match.models else []
    parts += [f"key's {label} {', '.join(values)}" for label, values in match.keys.items()]
    parts += [f"header {name} {', '.join(values)}" for name, values in match.headers.items()]
    return " and ".join(parts) or "anything"


def answered_by(route: Route) -> str:
    """Who is asked, in order, and what decides between them."""
    said = route.backend if route.backend is not None else ", then ".join(route.failover)
    if route.cascade is not None:
        stages = [f"{stage.backend}{f' (defers: {rule(stage.defer_when)})' if stage.defer_when else ''}" for stage in route.cascade.stages]
        said = ", then ".join((*stages, *last_backends(route.cascade)))
    if route.guard is not None:
        said += f"; guard {route.guard.detector}, when out of distribution {route.guard.when_ood}"
    if route.hedge is not None:
        said += f"; hedged to {route.hedge.to}"
    return said


def rule(when: DeferWhen) -> str:
    """A deferral rule in one line."""
    if when.calibration is not None:
        return when.calibration
    if when.any or when.all:
        return (" or " if when.any else " and ").join(
            f"({rule(each)})" if each.any or each.all else rule(each) for each in when.any or when.all
        )
    score = f"{when.score}({when.q:g})" if when.q is not None else when.score
    return f"{score} below {when.below:g}" if when.below is not None else f"{score} above {when.above:g}"
