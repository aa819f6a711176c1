"""A guard and a cascade on real engines: `python -m loadtests.engines [--engine vllm --engine llama-server] [--requests 300]
[--output json] [--plot FILE]`.

The repository's two tiny models, specialist and generalist, each in an engine of its own, with `headgate serve` before them and OpenAI's
client before that, streamed. The workload is mixed: tickets, which the specialist was trained for, in words that it was not all trained on,
and tasks that it was not trained for; the right answers are known. It is played five times: to the specialist alone, the generalist
alone, behind the demo's detector (guard), with a calibrated stage (cascade), and with both.

A calibration is bound to its backend and to the kind of its evidence, and engines differ in what they send: so each engine's own
evidence is collected first, of other tickets, and `headgate calibrate cascade` makes of it one calibration for the cascade alone and one
for the cascade behind the guard, which knows the detector's score too. `--calibration demo` takes the demo's for both: it was made on the
embedded models, and goes by the detector's score, so the cascade alone then has a guard that only flags.

Where the evidence is logits the workload is played a sixth time (energy): as both, with a bare threshold on the energy of the answer in
the place of the calibration, which defers as much of the lines.

An engine that is not installed is skipped, and why is said (`python -m tests.engines.install`). The table goes to stderr, JSON to stdout
with `--output json`. Exit code 1: a request failed, a client saw evidence, or a set-up was no better than the specialist alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gateway.embedded import corpus, export, fit
from loadtests import drawing, engines_asked, engines_figures
from policies import calibrated, scores
from policies.calibration import pairs, procedure
from policies.deferral import LOGITS_TOP
from tests.e2e.gateway import gateway
from tests.engines.asking import client_of
from tests.engines.install import VLLM_VERSION, EngineMissingError
from tests.engines.processes import Engine, start_llama, start_vllm

MODELS = ("specialist", "generalist")
CALIBRATED = ("cascade", "both")


class Subject(NamedTuple):
    """An engine as it is measured."""

    kind: str
    """Of the backends."""
    program: str
    """What runs the models: "" for the gateway itself, llama, vllm."""
    evidence: str = "logprobs"
    options: tuple[str, ...] = ()
    """Of the engine with the specialist."""
    more: str = ""
    """Of the policy's backends."""


SUBJECTS = {
    "embedded": Subject("embedded", ""),
    # It closes the connection after every stream and does not say so, so that a next request may have to be sent again more than once.
    "llama-server": Subject("openai", "llama", more=", retries: {attempts: 5, budget_percent: 100}"),
    "vllm": Subject("vllm", "vllm"),
    "vllm-logits": Subject("vllm", "vllm", "logits", ("--logprobs-mode", "raw_logits")),
}

STAGE = "{{stages: [{{backend: specialist, hold: {{tokens: {hold}, for: 20s}}, defer_when: {rule}}}], last: generalist}}"


class Rules(NamedTuple):
    """What the stages of an engine go by."""

    calibrations: Mapping[str, bytes]
    """By set-up."""
    energy_above: float | None = None
    """A bare threshold, where the evidence is logits."""


class Engines:
    """Engines that run, started when they are first wanted; the models that they serve lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[tuple[str, ...], Engine] = {}

    def urls(self, subject: Subject) -> dict[str, str]:
        """By model, once both are ready. Raises EngineMissingError; AssertionError where one dies."""
        wanted = {model: (subject.program, model, *(subject.options if model == "specialist" else ())) for model in MODELS}
        for model, key in wanted.items():
            if key not in self._running:
                self._running[key] = self._start(subject.program, model, key[2:])
        for key in wanted.values():
            self._running[key].wait_ready()
        return {model: self._running[key].url for model, key in wanted.items()}

    def _start(self, program: str, model: str, options: tuple[str, ...]) -> Engine:
        log = self._folder / f"{program}-{model}-{len(self._running)}.log"
        if program == "llama":
            return start_llama(export.llama_cpp(model, self._folder), log, "--parallel", "4", *options)
        return start_vllm(export.hugging_face(model, self._folder / model), log, *options)

    def stop(self) -> None:
        for engine in self._running.values():
            engine.stop()


def policy(subject: Subject, urls: Mapping[str, str], rules: Rules | None) -> str:
    """A route for each set-up, named as it is; without rules for the two models alone."""
    text = "version: 1\nbackends:\n"
    for model in MODELS:
        facts = f"name: {model}, kind: {subject.kind}, model: {model}"
        facts += f', replicas: ["{urls[model]}"]' if urls else ""
        facts += subject.more
        if model == "specialist":
            facts += f", evidence: {subject.evidence}" + (", client_logprobs: pass" if subject.evidence == "logits" else "")
        text += f"  - {{{facts}}}\n"
    routes = [f"{{name: {model}, matches: [{{models: [{model}]}}], backend: {model}}}" for model in MODELS]
    if rules is not None:
        text += f"detectors:\n  - {{name: tickets, artifact: {fit.DETECTOR}}}\n"
        routes += [_cascade("guard", "to_last", "{stages: [{backend: specialist}], last: generalist}")]
        for name, calibration in rules.calibrations.items():
            when_ood = "to_last" if name == "both" else "flag" if by_detector(calibration) else ""
            routes.append(_cascade(name, when_ood, STAGE.format(hold=fit.HOLD_TOKENS, rule=f"{{calibration: {name}.json}}")))
        if rules.energy_above is not None:
            rule = f"{{score: energy, above: {rules.energy_above}}}"
            routes.append(_cascade("energy", "to_last", STAGE.format(hold=fit.HOLD_TOKENS, rule=rule)))
    return text + "routes:\n" + "".join(f"  - {route}\n" for route in routes)


def _cascade(name: str, when_ood: str, cascade: str) -> str:
    guard = f", guard: {{detector: tickets, when_ood: {when_ood}}}" if when_ood else ""
    return f"{{name: {name}, matches: [{{models: [{name}]}}]{guard}, cascade: {cascade}}}"


def by_detector(calibration: bytes) -> bool:
    """Whether its score needs what a detector says."""
    return any(name.startswith("ood_") for name in calibrated.read(calibration).model.features)


def demo_rules() -> Rules:
    """The demo's calibration, for both."""
    return Rules(dict.fromkeys(CALIBRATED, (fit.FITTED / fit.CALIBRATION).read_bytes()))


def energy_that_defers(share: float, lines: Sequence[fit.Line]) -> float:
    """The threshold above which the energy of such a share of the lines lies: a rule that costs as much as another one."""
    found = []
    for line in lines:
        seen = line["evidence"]
        scored = scores.score(seen["logprobs"][: fit.HOLD_TOKENS], seen["top_logprobs"][: fit.HOLD_TOKENS], logits=True)
        assert scored.energy is not None
        found.append(scored.energy)
    return sorted(found)[max(0, round((1 - share) * len(found)) - 1)]


async def collect(text: str, parts: Sequence[Sequence[corpus.Example]], top: int) -> list[list[fit.Line]]:
    """Lines of each part, through a gateway on this policy."""
    async with gateway(text, "--workers", "1") as running, client_of(running) as client:
        return [await engines_asked.lines(client, part, top) for part in parts]


def calibrate(work: Path, subject: Subject, urls: Mapping[str, str], count: int) -> tuple[Rules, dict[str, Any]]:
    """Rules of an engine's own evidence, made of `count` lines to learn on and `count` to choose the threshold; and how the demo's
    calibration would do on the latter, where the evidence is of its kind."""
    top = LOGITS_TOP if subject.evidence == "logits" else fit.TOP
    parts = [fit.drawn(corpus.traffic(part.seed), count) for part in (fit.LEARN, fit.CERTIFY)]
    collected = asyncio.run(collect(policy(subject, urls, None), parts, top))
    detector = fit.FITTED / fit.DETECTOR
    seen = [fit.scored([{"text": each.prompt} for each in part], work, detector) for part in parts]
    kept = [engines_asked.judged(found, said) for found, said in zip(collected, seen, strict=True)]
    made = {}
    for name, (learn, certify) in zip(CALIBRATED, (collected, kept), strict=True):
        files = ("--train", fit.written(work / "learn.jsonl", learn), "--data", fit.written(work / f"{name}.jsonl", certify))
        bound = ("--backend", "specialist", "--prefix-tokens", fit.HOLD_TOKENS, "--evidence", subject.evidence)
        terms = ("--epsilon", fit.EPSILON, "--cost", fit.COST, "--out", work / f"{name}.json", "--output", "json")
        fit.headgate("calibrate", "cascade", *files, *map(str, (*bound, *terms)))
        made[name] = (work / f"{name}.json").read_bytes()
    if subject.evidence == "logits":
        return Rules(made, energy_that_defers(calibrated.read(made["both"]).deferred.estimate, kept[1])), {}
    demo = calibrated.read((fit.FITTED / fit.CALIBRATION).read_bytes())
    with (work / "both.jsonl").open("rb") as lines:
        return Rules(made), procedure.evaluate(demo, pairs.read(lines, "both.jsonl", prefix_tokens=fit.HOLD_TOKENS))


async def play(subject: Subject, urls: Mapping[str, str], rules: Rules, requests: int) -> dict[str, list[engines_asked.Reply]]:
    """The workload on each set-up, one after the other, through one gateway."""
    examples = engines_asked.workload(requests)
    files = {fit.DETECTOR: (fit.FITTED / fit.DETECTOR).read_bytes(), **{f"{name}.json": data for name, data in rules.calibrations.items()}}
    names = (*MODELS, "guard", *rules.calibrations, *(["energy"] if rules.energy_above is not None else []))
    async with gateway(policy(subject, urls, rules), "--workers", "1", files=files) as running, client_of(running) as client:
        return {name: await engines_asked.ask_all(client, name, examples) for name in names}


def measure(subject: Subject, urls: Mapping[str, str], args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """All figures of one engine."""
    demo: dict[str, Any] = {}
    rules = demo_rules()
    if args.calibration == "own":
        rules, demo = calibrate(work, subject, urls, args.lines)
    replies = asyncio.run(play(subject, urls, rules, args.requests))
    set_ups = {name: engines_figures.figures(found) for name, found in replies.items()}
    return {
        "evidence": subject.evidence,
        "calibration": args.calibration,
        "calibrations": {name: told(data) for name, data in rules.calibrations.items()},
        "energy_above": rules.energy_above,
        "demo_calibration_here": demo,
        "set_ups": set_ups,
        "missed": engines_figures.missed(set_ups),
    }


def told(data: bytes) -> dict[str, Any]:
    """Of a calibration, what it was made of and promises."""
    made = calibrated.read(data)
    return {
        "enabled": made.enabled,
        "promise": made.promise,
        "epsilon": made.epsilon,
        "rows": made.rows_calibrated,
        "deferred": made.deferred.estimate,
        "loss": made.loss.estimate,
        "features": made.model.features,
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", action="append", choices=tuple(SUBJECTS), help="may be given again; default: all")
    parser.add_argument("--requests", type=int, default=300, help="of the workload, which is played five times")
    parser.add_argument("--calibration", choices=("own", "demo"), default="own", help="of the engine's own evidence, or the demo's")
    parser.add_argument("--lines", type=int, default=1000, help="to learn an own calibration on, and as many to choose the threshold")
    parser.add_argument("--earlier", type=Path, action="append", default=[], help="JSON of an earlier run: its engines are shown too")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument("--plot", type=Path, help="PNG to draw (needs the extra `plot`)")
    args = parser.parse_args(argv)
    if args.plot is not None:
        drawing.must_draw(parser, "--plot")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    found: dict[str, Any] = {"about": {"requests": args.requests, "clients": engines_asked.CLIENTS, "vllm": VLLM_VERSION}, "engines": {}}
    for earlier in args.earlier:
        found["engines"] |= json.loads(earlier.read_text())["engines"]
    wanted = args.engine or ([] if args.earlier else list(SUBJECTS))
    with tempfile.TemporaryDirectory(prefix="headgate-engines-") as name:
        engines = Engines(Path(name))
        try:
            for each in dict.fromkeys(wanted):
                print(f"{each} ...", file=sys.stderr)
                try:
                    urls = engines.urls(SUBJECTS[each]) if SUBJECTS[each].program else {}
                except EngineMissingError as reason:
                    found["engines"][each] = {"skipped": str(reason)}
                    continue
                found["engines"][each] = measure(SUBJECTS[each], urls, args, Path(name))
        finally:
            engines.stop()
    print(engines_figures.table(found), file=sys.stderr)
    if args.plot is not None:
        engines_figures.draw(found, args.plot)
    if args.output == "json":
        print(json.dumps(found, indent=1))
    return int(any(row.get("missed") for row in found["engines"].values()))


if __name__ == "__main__":
    sys.exit(main())
