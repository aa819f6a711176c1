"""Load that goes on, and crowds: `python -m loadtests.soak --minutes 30 [--only steady --only open]`.

steady: at 70 % of what this rig can, with clients that come and go, reloads and backends that restart. Memory over time as a slope;
descriptors and asyncio tasks of worker and controller before and after, at rest; every exchange that a client was told of is on
record, exactly once. slow: readers and writers that take their time, by the hundred, beside quick ones. open: 5,000 streams on one
worker. overload: many more ask than there is room for.

Below 5 minutes crowds are smaller in proportion, slow readers have shorter streams, and memory is reported without a verdict. Exit
code 1 where something is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
from typing import Any

from loadtests.scenarios import EVENTS
from loadtests.soak import crowds, steady

WHOLE_MINUTES = 5.0
STAGES = ("steady", "slow", "open", "overload")
MINUTES_MAX = 24 * 60.0


async def run(stages: list[str], minutes: float, seed: int) -> dict[str, Any]:
    """Each stage's report."""
    part = min(1.0, minutes / WHOLE_MINUTES)
    found: dict[str, Any] = {}
    for stage in stages:
        if stage == "steady":
            found[stage] = await steady.steady(minutes, seed)
        elif stage == "slow":
            found[stage] = await crowds.slow_ones(max(20, int(200 * part)), max(0.5, 10 * part), EVENTS if part == 1.0 else EVENTS // 4)
        elif stage == "open":
            found[stage] = await crowds.open_streams(max(100, int(5_000 * part)))
        else:
            found[stage] = await crowds.overload(max(60, int(200 * part)), max(0.6, 10 * part), seed)
        print(f"{stage}: {json.dumps(found[stage])}", file=sys.stderr, flush=True)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="loadtests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="of the steady stage")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", choices=STAGES, help="may be repeated; without it all")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    args = parser.parse_args(argv)
    if not 0 < args.minutes <= MINUTES_MAX:
        parser.error(f"--minutes is above 0 and at most {MINUTES_MAX:g}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        found = asyncio.run(run([stage for stage in STAGES if not args.only or stage in args.only], args.minutes, args.seed))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if args.output == "json":
        print(json.dumps(found, indent=1))
    for stage, report in found.items():
        for each in report["broken"]:
            print(f"BROKEN: {stage}: {each}", file=sys.stderr)
    return int(any(report["broken"] for report in found.values()))


if __name__ == "__main__":
    sys.exit(main())
