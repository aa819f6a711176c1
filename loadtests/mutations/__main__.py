"""Messages with a few bytes changed, read by `gateway.wire` and by h11: who disagrees?
`python -m loadtests.mutations [--side request|response|both] [--seconds 60]`.

A message that two readers take for different ones, or that ends in different places for them, is how requests are smuggled and answers
swapped. So each mutant is read whole, in random pieces, and by a reader that has just learned the head before it was changed (all three
must be the same), and by h11 (the same, or a difference that is argued in the side's `argued`). That Headgate refuses what h11 takes is
counted and is no fault.

Prints JSON: by side what was read, how often the readers differed and why. Exit code 1 where a difference is not argued, where anything
raised, or where one read took longer than `READ_S`. The seed makes the run; seconds are of CPU, in all.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import sys
import time
from typing import Any

from loadtests.mutations.judging import Side, Verdict, judge
from loadtests.mutations.requests import Requests
from loadtests.mutations.responses import Responses

SIDES: dict[str, Side] = {"request": Requests(), "response": Responses()}
READ_S = 1.0
EXAMPLES_MAX = 5
"""Mutants shown of each kind of difference that is not argued."""


def run(side: Side, seconds: float, seed: int) -> dict[str, Any]:
    """Mutants for so many seconds of CPU."""
    chance = random.Random(seed)
    seen: collections.Counter[str] = collections.Counter()
    faults: dict[str, list[str]] = {}
    differences: collections.Counter[str] = collections.Counter()
    begun = time.process_time()
    while (now := time.process_time()) - begun < seconds:
        case = side.case(chance)
        seen["mutants"] += 1
        try:
            found = judge(side, case, chance)
        except Exception as error:
            found = Verdict("raised", repr(error), True)
        if time.process_time() - now > READ_S:
            found = Verdict("slow", "", True)
        told = f"{found.kind}: {found.detail}" if found.detail else found.kind
        if told:
            differences[told] += 1
        if found.fault:
            examples = faults.setdefault(told, [])
            if len(examples) < EXAMPLES_MAX:
                examples.append(repr(case))
    return {
        "seed": seed,
        "cpu_s": round(time.process_time() - begun, 1),
        **seen,
        "differences": dict(differences.most_common()),
        "faults": faults,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="loadtests.mutations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=(*SIDES, "both"), default="both", help="who has sent what is read; both share the seconds")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    if not 0 < args.seconds <= 24 * 3600:
        parser.error("--seconds is above 0 and at most a day")
    chosen = SIDES if args.side == "both" else {args.side: SIDES[args.side]}
    found = {name: run(side, args.seconds / len(chosen), args.seed) for name, side in chosen.items()}
    print(json.dumps(found, indent=1))
    return int(any(each["faults"] for each in found.values()))


if __name__ == "__main__":
    sys.exit(main())
