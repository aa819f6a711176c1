"""The OOD detector on CLINC150: AUROC, FPR95 and AUPR on its out-of-scope test prompts, and CPU microseconds a prompt.

`python -m loadtests.ood [--data DIR] [--recipes none table encoder outliers] [--output json]`. Fits on `train` and calibrates on
`val`, as `headgate fit ood` does;
out-of-scope prompts are only ever scored, once, after everything was chosen. The data is github.com/clinc/oos-eval (CC BY 3.0):
`data/data_full.json` of it goes to DIR/clinc150/data_full.json.

`--detector FILE` fits nothing: only what a prompt costs by its length, by that detector.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from gateway.cli.pretrained import read_encoder, read_table
from gateway.scoring.pretrained import installed
from policies.ood.artifact import Detector, dumps, loads
from policies.ood.encoder import Encoder
from policies.ood.energy import Scorer
from policies.ood.fit import Example, fit
from policies.ood.mixing import auroc, fpr95
from policies.ood.table import NO_TABLE

ROUNDS = 3
GOALS = {
    "none": {"auroc": 97.2, "fpr95": 12.0, "us": 100.0},
    "table": {"auroc": 97.2, "fpr95": 12.0, "us": 100.0},
    "encoder": {"auroc": 98.5, "fpr95": 6.0, "us": 10_000.0},
    "outliers": {"auroc": 98.5, "fpr95": 6.0, "us": 10_000.0},
}
"""Of each recipe: nothing pretrained; the extra's table; its encoder too; and that with `oos_train` as reviewed outliers."""
TIMED_MAX = 300
"""Prompts that are timed where each takes milliseconds."""
LENGTHS = (40, 200, 1_000, 4_000)
"""Characters of a prompt; of the longest the two ends are scored, as of every prompt."""
LENGTH_PROMPTS, LENGTH_ROUNDS = 20, 40


def main() -> int:
    parser = argparse.ArgumentParser(description="The OOD detector on CLINC150.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="holds clinc150/data_full.json (default ../shared/data)")
    parser.add_argument("--recipes", nargs="+", choices=[*GOALS], help="default: none, and with the extra `ood` all of them")
    parser.add_argument("--detector", type=Path, help="time this one, of `headgate fit ood` without an encoder")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    args = parser.parse_args()
    path = args.data / "clinc150" / "data_full.json"
    if not path.exists():
        print(
            f"{path} is not there: take data/data_full.json of github.com/clinc/oos-eval (CC BY 3.0), or name its folder by --data",
            file=sys.stderr,
        )
        return 2
    data = json.loads(path.read_text())
    if args.detector:
        print(json.dumps(by_length(loads(args.detector.read_bytes()), [text for text, _ in data["test"]]), indent=2))
        return 0
    results = {recipe: measure(data, recipe) for recipe in args.recipes or (GOALS if installed() else ["none"])}
    print(json.dumps(results, indent=2))
    if args.output == "text":
        for recipe, result in results.items():
            print(f"\n{recipe}\n{table(result)}")
    return 0


def measure(data: dict[str, list[list[str]]], recipe: str) -> dict[str, Any]:
    """Fit, then score the test prompts: those of the 150 classes, and the out-of-scope ones."""
    train, holdout = ([Example(text, label) for text, label in data[name]] for name in ("train", "val"))
    known = {each.text for each in train}
    vectors = NO_TABLE if recipe == "none" else read_table()
    encoder = read_encoder() if recipe in ("encoder", "outliers") else None
    outliers = [Example(text) for text, _ in data["oos_train"]] if recipe == "outliers" else []
    start = time.process_time()
    fitted = fit(
        train, [each for each in holdout if each.text not in known], outliers=outliers, table=vectors, encoder=encoder,
        progress=lambda step: print(recipe, step, file=sys.stderr),
    )  # fmt: skip
    fit_s = time.process_time() - start
    file = dumps(fitted.detector)
    detector = loads(file)
    inside, outside = [text for text, _ in data["test"]], [text for text, _ in data["oos_test"]]
    both = columns(detector, encoder, inside, outside)
    found = {name: ranked(*each) for name, each in both.items()}
    kept = float((both["mix"][0] <= detector.calibration.threshold(95).score).mean())
    timed = (inside + outside)[:: len(inside + outside) // TIMED_MAX] if encoder else inside + outside
    return {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **found["mix"],
        **microseconds(detector, encoder, [] if encoder else [each.text for each in train], timed),
        **({} if encoder else by_length(detector, inside)),
        "kept_percent_at_95": round(100 * kept, 2),
        "pseudo_ood": {"auroc": round(fitted.mix.auroc, 2), "fpr95": round(fitted.mix.fpr95, 2), "mix": fitted.mix.shares},
        "alone": {name: found[name] for name in detector.head.scores},
        "fit_cpu_s": round(fit_s, 1),
        "detector_bytes": len(file),
        "goal": GOALS[recipe],
    }


def columns(detector: Detector, encoder: Encoder | None, inside: list[str], outside: list[str]) -> dict[str, tuple[Any, Any]]:
    """Each score, and the mix, of both groups, scored one by one as live traffic is."""
    scorer = Scorer(detector.head, encoder.encode if encoder else None)
    both = [np.stack([row for text in texts if (row := scorer.scores(text)) is not None]) for texts in (inside, outside)]
    found = {name: (both[0][:, at], both[1][:, at]) for at, name in enumerate(detector.head.scores)}
    return found | {"mix": (both[0] @ detector.head.mix, both[1] @ detector.head.mix)}


def ranked(inside: Any, outside: Any) -> dict[str, float]:
    return {"auroc": round(auroc(inside, outside), 2), "fpr95": round(fpr95(inside, outside), 2), "aupr": round(aupr(inside, outside), 2)}


def aupr(inside: Any, outside: Any) -> float:
    """Average precision in percent, out-of-scope prompts being the positives."""
    order = np.argsort(-np.concatenate([inside, outside]), kind="stable")
    positive = order >= len(inside)
    precision = np.cumsum(positive) / np.arange(1, len(order) + 1)
    return float(precision[positive].mean() * 100)


def microseconds(detector: Detector, encoder: Encoder | None, seen: list[str], texts: list[str]) -> dict[str, float]:
    """CPU a prompt: for a scorer that has served the training texts, and for one that has just started."""
    warm, cold = [], []
    encode = encoder.encode if encoder else None
    for _ in range(ROUNDS):
        scorer = Scorer(detector.head, encode)
        cold.append(_timed(scorer, texts))
        scorer = Scorer(detector.head, encode)
        _timed(scorer, seen)
        warm.append(_timed(scorer, texts))
    return {"us": round(min(warm), 1), "us_cold": round(min(cold), 1)}


def by_length(detector: Detector, said: list[str]) -> dict[str, dict[str, float]]:
    """CPU microseconds of prompts of so many characters, made of things that are `said`: by a scorer that has met their words, the best of
    several rounds; and the first time, by a new scorer."""
    rng = random.Random(11)
    met: dict[str, float] = {}
    first: dict[str, float] = {}
    for chars in LENGTHS:
        texts = [_prompt(rng, said, chars) for _ in range(LENGTH_PROMPTS)]
        scorer = Scorer(detector.head)
        scorer.score("hello")
        first[str(chars)] = round(_timed(scorer, texts), 1)
        met[str(chars)] = round(min(_timed(scorer, texts) for _ in range(LENGTH_ROUNDS)), 1)
    return {"us_by_chars": met, "us_by_chars_first": first}


def _prompt(rng: random.Random, said: list[str], chars: int) -> str:
    """Sentences, cut at so many characters."""
    return ". ".join(each.capitalize() for each in rng.choices(said, k=chars))[:chars]


def _timed(scorer: Scorer, texts: list[str]) -> float:
    start = time.process_time_ns()
    for text in texts:
        scorer.score(text)
    return (time.process_time_ns() - start) / max(1, len(texts)) / 1000


def table(result: dict[str, Any]) -> str:
    lines = [f"{'score':17} {'AUROC':>6} {'FPR95':>6} {'AUPR':>6}"]
    for name, each in {"mix": result, **result["alone"]}.items():
        lines.append(f"{name:17} {each['auroc']:6.2f} {each['fpr95']:6.2f} {each['aupr']:6.2f}")
    lines.append(f"{result['us']} us a prompt ({result['us_cold']} us from a cold start)")
    if "us_by_chars" in result:
        lines.append("by characters: " + ", ".join(f"{chars}: {us} us" for chars, us in result["us_by_chars"].items()))
    for name, better in (
        ("auroc", result["auroc"] >= result["goal"]["auroc"]),
        ("fpr95", result["fpr95"] <= result["goal"]["fpr95"]),
        ("us", result["us"] <= result["goal"]["us"]),
    ):
        lines.append(f"goal {name} {result['goal'][name]}: {'met' if better else 'MISSED'}")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
