"""Faults under load, counted: `python -m loadtests.chaos [--seed 1] [--exchanges 1000] [--only reset --only kill-worker]`.

Each fault gets a gateway and two backends of its own, clients that ask all the time, and the fault again and again, until enough
exchanges and injections have been seen. What is promised, and checked of every exchange: each client gets a whole answer or a clear
error; no stream ends silently; nothing is generated twice unless the first was refused; nobody gets another's bytes; what was
acknowledged as recorded is in the store, and where no process is killed every exchange is, once.

Exit code 1 where a promise was broken. The table goes to stderr, JSON to stdout with `--output json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from loadtests.chaos.faults import BY_NAME, FAULTS
from loadtests.chaos.trial import Outcome, trial

COLUMNS = (
    ("exchanges", "exchanges"),
    ("injected", "injected"),
    ("whole", "whole"),
    ("error", "error"),
    ("error_in_stream", "in stream"),
    ("turned_away", "turned away"),
    ("lost", "lost"),
    ("silent", "silent"),
    ("wrong", "wrong"),
    ("garbled", "garbled"),
    ("hung", "hung"),
    ("again", "again"),
    ("doubled", "doubled"),
    ("unrecorded", "unrecorded"),
)


def table(outcomes: list[Outcome]) -> str:
    """For people, one line a fault."""
    lines = [f"{'fault':16}" + "".join(f"{head:>12}" for _, head in COLUMNS)]
    for outcome in outcomes:
        if outcome.skipped:
            lines.append(f"{outcome.fault:16} skipped: {outcome.skipped}")
            continue
        lines.append(f"{outcome.fault:16}" + "".join(f"{outcome.counts[name]:>12,}" for name, _ in COLUMNS))
        lines.extend(f"    BROKEN: {each}" for each in outcome.broken)
    return "\n".join(lines)


async def run(names: list[str], *, seed: int, exchanges: int, clients: int) -> list[Outcome]:
    outcomes = []
    for name in names:
        outcome = await trial(BY_NAME[name], seed=seed, exchanges=exchanges, clients=clients)
        outcomes.append(outcome)
        print(table([outcome]), file=sys.stderr, flush=True)
        for what, count in sorted(outcome.injected.items()):
            print(f"      {count:6} injected: {what}", file=sys.stderr, flush=True)
        for detail, count in sorted(outcome.details.items(), key=lambda item: -item[1])[:12]:
            print(f"      {count:6} {detail}", file=sys.stderr, flush=True)
    return outcomes


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="loadtests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--exchanges", type=int, default=1_000, help="at least so many for each fault")
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--only", action="append", choices=list(BY_NAME), help="may be repeated; without it all")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    args = parser.parse_args(argv)
    if not 1 <= args.exchanges <= 1_000_000 or not 1 <= args.clients <= 500:
        parser.error("--exchanges is 1 to 1,000,000, --clients 1 to 500")
    names = [fault.name for fault in FAULTS if not args.only or fault.name in args.only]
    outcomes = asyncio.run(run(names, seed=args.seed, exchanges=args.exchanges, clients=args.clients))
    print("\n" + table(outcomes), file=sys.stderr)
    if args.output == "json":
        print(json.dumps([outcome.told() for outcome in outcomes], indent=1))
    return int(any(outcome.broken for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
