"""The cascade's calibration on public data: how often it breaks its promise, and what it saves, over many random splits.

    python -m loadtests.cascade [--data ../shared/data] [--splits 500] [--only yelp-2000 ...] [--output json]

Data: YELP and IMDB of FrugalML (github.com/lchen001/FrugalML, `cascade_frugalml/*.csv.gz`: confidence, prediction and correctness of
four services), raw option logits of Qwen 1.8B, 7B and 72B of LLM-Uncertainty-Bench (github.com/smartyfh/LLM-Uncertainty-Bench,
`cascade_llm_logits/*.npz`; there is no gold label, so quality is agreement with the 72B).

Each split draws lines to learn the score, others to certify the threshold, and judges on the rest. Two figures of violations: on the
rest, as it looks to whoever checks on a finite sample (its own noise included), and on all lines, nearer to the traffic that is
promised about.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from policies.calibrated import Binding
from policies.calibration.pairs import Pairs
from policies.calibration.procedure import Terms, calibrate, evaluate

EPSILON, CONFIDENCE = 0.01, 0.95


class Case(NamedTuple):
    name: str
    load: Callable[[Path], Pairs]
    cost_small: float
    train: int
    calibrate: int
    target: float


def frugal(file: str, small: str, large: str) -> Callable[[Path], Pairs]:
    def load(data: Path) -> Pairs:
        with gzip.open(data / "cascade_frugalml" / f"{file}.csv.gz", "rt", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))

        def column(name: str) -> np.ndarray:
            return np.array([float(row[name]) for row in rows])

        features = {"confidence": column(f"{small}_conf"), "class": column(f"{small}_pred")}
        return Pairs(features, column(f"{large}_correct") - column(f"{small}_correct"), True, None)

    return load


def qwen(file: str, small: str, large: str = "Qwen-72B") -> Callable[[Path], Pairs]:
    def load(data: Path) -> Pairs:
        with np.load(data / "cascade_llm_logits" / f"{file}_10k.npz") as found:
            cheap, dear = found[small].astype(float), found[large].astype(float)
        logprobs = cheap - np.logaddexp.reduce(cheap, axis=1, keepdims=True)
        ranked = np.sort(logprobs, axis=1)[:, ::-1]
        features = {
            "logprob": ranked[:, 0],
            "margin": ranked[:, 0] - ranked[:, 1],
            "entropy": -(np.exp(logprobs) * logprobs).sum(axis=1),
            "third": ranked[:, 2],
            "class": cheap.argmax(axis=1).astype(float),
        }
        return Pairs(features, (cheap.argmax(axis=1) != dear.argmax(axis=1)).astype(float), True, None)

    return load


CASES = (
    Case("yelp-2000", frugal("YELP", "m4", "m0"), 0.3, 8_000, 2_000, 0.36),
    Case("yelp-5000", frugal("YELP", "m4", "m0"), 0.3, 8_000, 5_000, 0.40),
    Case("cosmosqa-7b", qwen("cosmosqa", "Qwen-7B"), 0.1, 4_000, 3_000, 0.36),
    Case("cosmosqa-1.8b", qwen("cosmosqa", "Qwen-1_8B"), 0.025, 4_000, 3_000, 0.0),
    Case("mmlu-7b", qwen("mmlu", "Qwen-7B"), 0.1, 4_000, 3_000, 0.0),
    Case("mmlu-1.8b", qwen("mmlu", "Qwen-1_8B"), 0.025, 4_000, 3_000, 0.0),
    Case("imdb-amazon-google", frugal("IMDB", "m4", "m0"), 0.3, 8_000, 2_000, 0.0),
    Case("yelp-vader-google", frugal("YELP", "m100", "m0"), 0.0004, 8_000, 2_000, 0.0),
    Case("imdb-vader-google", frugal("IMDB", "m100", "m0"), 0.0004, 8_000, 2_000, 0.0),
    Case("yelp-google-baidu", frugal("YELP", "m0", "m3"), 2.5 / 3.5, 8_000, 2_000, 0.0),
    Case("yelp-baidu-google", frugal("YELP", "m3", "m0"), 1.4, 8_000, 2_000, 0.0),
)


def judge(case: Case, data: Path, splits: int, seed: int) -> dict[str, Any]:
    pairs = case.load(data)
    terms = Terms(EPSILON, CONFIDENCE, case.cost_small, 1.0)
    random = np.random.default_rng(seed)
    began = time.perf_counter()
    rest, everywhere, saving, disabled = [], [], [], 0

    for _ in range(splits):
        order = random.permutation(len(pairs))
        train, chosen, held = np.split(order, [case.train, case.train + case.calibrate])
        found = calibrate(pairs.take(chosen), pairs.take(train), terms, Binding())
        judged = evaluate(found, pairs.take(held))
        rest.append(judged["loss"])
        everywhere.append(evaluate(found, pairs)["loss"])
        saving.append(judged["saving"])
        disabled += not found.enabled
    return {
        "case": case.name,
        "train": case.train,
        "calibrate": case.calibrate,
        "splits": splits,
        "violations_on_rest": float(np.mean(np.array(rest) > EPSILON)),
        "violations_on_all": float(np.mean(np.array(everywhere) > EPSILON)),
        "saving": float(np.mean(saving)),
        "saving_sd": float(np.std(saving)),
        "saving_p05": float(np.quantile(saving, 0.05)),
        "disabled": disabled / splits,
        "target": case.target,
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--splits", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=[case.name for case in CASES])
    parser.add_argument("--output", choices=("table", "json", "both"), default="both")
    args = parser.parse_args()
    if not (args.data / "cascade_frugalml").is_dir():
        parser.error(f"{args.data} has no cascade_frugalml: see --help for where the data comes from")
    found = []
    for case in CASES:
        if args.only and case.name not in args.only:
            continue
        found.append(judge(case, args.data, args.splits, args.seed))
        if args.output != "json":
            row = found[-1]
            print(
                f"{row['case']:20s} violations {row['violations_on_rest']:6.1%} on the rest, {row['violations_on_all']:6.1%} on all   "
                f"saving {row['saving']:6.2%} (sd {row['saving_sd']:5.1%}, 5 % below {row['saving_p05']:6.1%})   "
                f"target {row['target']:4.0%}   disabled {row['disabled']:4.0%}   {row['seconds']:.0f} s",
                flush=True,
            )
    if args.output != "table":
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
