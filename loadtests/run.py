"""What a gateway costs beside its peers, all in one run: `python -m loadtests.run --subject headgate --subject nginx [--check]`.

Every round measures each scenario on every subject, one after another, so that what disturbs the machine disturbs them all. Subjects
have core 0, the mock backend, the generator and this program core 1. A round is void unless the generator's count, the backend's
and, for Headgate, its metrics and its records agree. Peers come from `python -m loadtests.peers.install`; one that is absent is
skipped, and why is said. The table, with ratios, goes to stderr, JSON to stdout with `--output json`.

Exit code 1: a round of Headgate's was void, or with `--check` a goal of `loadtests/budgets.toml` is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from gateway.compiled import is_compiled
from loadtests import processes, report
from loadtests.measure import QUIET_S, Round, measure, wait_until_quiet
from loadtests.peers.install import PACKAGES, PeerMissingError, version
from loadtests.scenarios import BY_NAME, DEFAULT, EVENTS, INTERVAL_MS, SCENARIOS, Scenario
from loadtests.subjects import HEADGATES, LOAD_CORE, Subject, start

SUBJECTS = (*HEADGATES, *PACKAGES)
WARM = ("request-32", "stream-32")
WARM_S = 0.5
ROUNDS_MAX = 100
SECONDS_MAX = 600.0


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", action="append", choices=SUBJECTS, help="may be repeated; without it headgate and nginx")
    parser.add_argument("--scenario", action="append", choices=[*BY_NAME, "all"], help=f"may be repeated; without it {', '.join(DEFAULT)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of asking, in one round of one scenario")
    parser.add_argument("--patience", type=float, default=60, help="seconds that answers may still take after that")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument("--check", action="store_true", help="hold the figures against loadtests/budgets.toml")
    args = parser.parse_args(argv)
    if not 1 <= args.rounds <= ROUNDS_MAX or not 0 < args.seconds <= SECONDS_MAX or not 0 < args.patience <= SECONDS_MAX:
        parser.error(f"--rounds is 1 to {ROUNDS_MAX}, --seconds and --patience are above 0 and at most {SECONDS_MAX:g}")
    if (os.cpu_count() or 1) < 2:
        parser.error("the gateway and the generator need a core each, and this machine has one")
    return args


def run(names: list[str], scenarios: list[Scenario], args: argparse.Namespace) -> report.Results:
    """All rounds."""
    results = report.Results(about=about(args))
    with contextlib.ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        os.sched_setaffinity(0, {LOAD_CORE})
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headgate-load-")))
        mock = processes.free_port()
        argv = [sys.executable, "-m", "loadtests.mock", "--port", str(mock), "--chunks", str(EVENTS), "--interval-ms", str(INTERVAL_MS)]
        stack.enter_context(processes.running(processes.pinned(LOAD_CORE, *argv), mock, "/health", log=folder / "mock.log"))
        subjects: list[Subject] = []
        for name in names:
            try:
                subjects.append(stack.enter_context(start(name, folder, mock)))
            except (PeerMissingError, processes.DidNotStartError) as error:
                results.skipped[name] = str(error)
                print(f"skipped: {name}: {error}", file=sys.stderr, flush=True)
        by_name = {subject.name: subject for subject in subjects}
        guarded: dict[str, Subject] = {}
        if "headgate" in by_name and any(scenario.guarded for scenario in scenarios):
            guarded["headgate"] = stack.enter_context(start("headgate", folder, mock, guarded=True))
        for subject in (*subjects, *guarded.values()):
            for each in WARM:
                measure(subject, BY_NAME[each], mock, seconds=WARM_S, patience=args.patience)
                wait_until_quiet(subject, mock)
        scenarios = memory_once(scenarios, results)
        for number in range(args.rounds):
            for scenario in scenarios:
                if scenario.held and number:
                    continue
                for subject in asked(scenario, by_name, guarded):
                    found = measure(subject, scenario, mock, seconds=args.seconds, patience=args.patience)
                    results.add(scenario.name, subject.name, found)
                    print(progress(number, scenario, subject, found), file=sys.stderr, flush=True)
                    if not wait_until_quiet(subject, mock):
                        results.void.append(f"{subject.name}: {scenario.name}: not at rest {QUIET_S:.0f} s later; the next round suffers")
    return results


def memory_once(scenarios: list[Scenario], results: report.Results) -> list[Scenario]:
    """Without any but the first that reads memory: it needs processes that have not yet had so many streams, so that it is also of the
    first round alone."""
    first, *others = [scenario.name for scenario in scenarios if scenario.held] or [""]
    for name in others:
        results.skipped[name] = f"{first} was read before it on the same processes: ask for it in a run without {first}"
        print(f"skipped: {name}: {results.skipped[name]}", file=sys.stderr, flush=True)
    return [scenario for scenario in scenarios if scenario.name not in others]


def asked(scenario: Scenario, subjects: dict[str, Subject], guarded: dict[str, Subject]) -> list[Subject]:
    """Who is measured under a scenario."""
    chosen = subjects | guarded if scenario.guarded else subjects
    return [subject for name, subject in chosen.items() if not scenario.ours or name in ("direct", "headgate")]


def progress(number: int, scenario: Scenario, subject: Subject, found: Round) -> str:
    where = f"round {number + 1}: {scenario.name}: {subject.name}"
    if found.void:
        return f"{where}: void: {found.void}"
    shown = ("us", "latency_p50_us", "first_event_p50_us", "delay_p99_us", "kib_per_stream", "idle_mib")
    return f"{where}: " + "  ".join(f"{name} {found.figures[name]:.1f}" for name in shown if name in found.figures)


def about(args: argparse.Namespace) -> dict[str, object]:
    """What a reader of the figures must know."""
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "request_path": "compiled" if is_compiled() else "interpreted",
        "peers": {name: found for name in PACKAGES if (found := version(name))},
        "rounds": args.rounds,
        "seconds": args.seconds,
        "load_average_at_start": os.getloadavg()[0],
    }


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    chosen = args.scenario or list(DEFAULT)
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in chosen or "all" in chosen]
    results = run(["direct", *dict.fromkeys(args.subject or ["headgate", "nginx"])], scenarios, args)
    summary = results.summary()
    print(report.table(summary), file=sys.stderr)
    verdicts = report.check(results) if args.check else []
    for verdict in verdicts:
        print(verdict.line(), file=sys.stderr)
    if args.output == "json":
        skipped = {"skipped": results.skipped, "void": results.void}
        goals = [verdict.line() for verdict in verdicts]
        print(json.dumps({"about": results.about, **skipped, "scenarios": summary, "goals": goals}, indent=1))
    ours_void = any(each.split(":")[0] in HEADGATES for each in results.void)
    return int(ours_void or any(verdict.missed for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
