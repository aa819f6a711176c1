"""What a guard text costs where: how long it holds up the worker's loop, and what it takes as a whole, in the scoring process.

`python -m loadtests.inline [--detector FILE ...] [--data DIR]`. Without a detector: the demo's, and two of 150 classes with made-up
weights of the real size, without and with a table. Every text is of words that were never met. With CLINC150 in DIR
(`loadtests.ood` says whence): how many of its prompts, in a seeded order, a worker that begins leaves to the process.

CPU microseconds, median and (best) of `TEXTS` texts a kind; garbage collection is off. Prints JSON and a table.
"""

from __future__ import annotations

import argparse
import base64
import gc
import json
import random
import statistics
import string
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from policies.detector import INLINE_BYTES_MAX
from policies.ood.artifact import loads
from policies.ood.energy import Floats, Head, Scorer
from policies.ood.features import FEATURES, words_in

TEXTS = 40
SEED = 20261122
DEMO = Path(__file__).parent.parent / "gateway" / "embedded" / "fitted" / "detector.npz"
CLASSES, PROTOTYPES, PLACE, MEANING, HIDDEN, PIECES = 150, 768, 98, 256, 256, 20_000
"""Of a made-up detector."""
WARM = "please cancel my order, 支付 z1z2 a b c d e f g h"
SHARES = (100, 1_000, 10_000)
"""After how many prompts the share that was left to the process is told."""


def one_of(low: int, high: int) -> Callable[[random.Random], str]:
    return lambda rng: chr(rng.randrange(low, high))


def words(of: Callable[[random.Random], str], count: int, between: str = " ") -> Callable[[random.Random], str]:
    return lambda rng: between.join(of(rng) for _ in range(count))


def digits(count: int) -> Callable[[random.Random], str]:
    return lambda rng: "".join(rng.choices(string.digits, k=count))


KINDS: dict[str, Callable[[random.Random], str]] = {
    "4 words and a number of 7 digits": lambda rng: f"please cancel my order {digits(7)(rng)}",
    "and four numbers": lambda rng: f"please cancel my order {words(digits(7), 4)(rng)}",
    "100 numbers of 6 digits": words(digits(6), 100),
    "290 numbers of 6 digits": words(digits(6), 290),
    "base64": lambda rng: base64.b64encode(rng.randbytes(1536)).decode(),
    "hexadecimal digits": lambda rng: rng.randbytes(1024).hex(),
    "Chinese without blanks": words(one_of(0x4E00, 0x9FFF), 2_048, ""),
    "emoji without blanks": words(one_of(0x1F300, 0x1F6FF), 2_048, ""),
    "682 Chinese words": words(words(one_of(0x4E00, 0x9FFF), 2, ""), 682),
    "1,024 words of a character": words(one_of(0x4E00, 0x9FFF), 1_024),
    "letters and signs in turn": lambda rng: "".join(
        chr(rng.randrange(0xAC00, 0xD7A3)) + chr(rng.randrange(0x1F000, 0x1FAFF)) for _ in range(1_024)
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="What a guard text costs the worker's loop.")
    parser.add_argument(
        "--detector", type=Path, action="append", default=[], help="time this one, of `headgate fit ood` without an encoder"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="may hold clinc150/data_full.json (default ../shared/data)"
    )
    args = parser.parse_args()
    heads = {path.name: loads(path.read_bytes()).head for path in args.detector}
    if not heads:
        demo = loads(DEMO.read_bytes()).head
        heads = {"demo": demo, "150 classes": made_up(demo), "150 classes and a table": made_up(demo, table=True)}
    path = args.data / "clinc150" / "data_full.json"
    prompts = [text for text, _ in json.loads(path.read_text())["train"]] if path.exists() else []
    random.Random(SEED).shuffle(prompts)
    gc.disable()
    result = {name: {"kinds": kinds(head), "left_to_the_process_percent": left(head, prompts)} for name, head in heads.items()}
    print(json.dumps(result, indent=2))
    print(table(result))
    return 0


def made_up(demo: Head, *, table: bool = False) -> Head:
    """Of the real size; the scores mean nothing."""
    rng = np.random.default_rng(SEED)

    def some(*shape: int) -> Floats:
        return rng.standard_normal(shape, np.float32) * np.float32(0.1)

    meaning = MEANING if table else 0
    pieces = list("abcdefghijklmnopqrstuvwxyz0123456789") if table else []
    letters = random.Random(SEED)
    made = {"".join(letters.choices(string.ascii_lowercase, k=letters.randint(2, 6))) for _ in range(PIECES)} if table else set()
    vocabulary = ("[UNK]", "[CLS]", "[SEP]", *pieces, *(f"##{each}" for each in pieces), *sorted(made)) if table else ()
    prototypes = some(PROTOTYPES, PLACE)
    return demo._replace(
        idf=np.abs(some(FEATURES)) + 1,
        seen=(rng.random(FEATURES) < 0.9).astype(np.float32),
        weights=some(FEATURES, 2 * CLASSES + PLACE + meaning),
        bias=some(2 * CLASSES),
        prototypes=prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True),
        mix=np.ones(6 if table else 5, np.float32),
        vocabulary=vocabulary,
        vectors=some(len(vocabulary), meaning) if table else demo.vectors,
        hidden=some(meaning + 1, HIDDEN) if table else demo.hidden,
        out=some(HIDDEN + 1, CLASSES) if table else demo.out,
    )


def kinds(head: Head) -> dict[str, dict[str, float]]:
    """Of each kind: how many words, how many texts were left to the process, and what they cost here and there."""
    inline, whole = Scorer(head), Scorer(head)
    rows_max = INLINE_BYTES_MAX // inline.row_bytes
    found = {}
    for scorer in (inline, whole):
        scorer.score(WARM)
    for kind, make in KINDS.items():
        rng = random.Random(f"{kind}{SEED}")
        texts = [make(rng) for _ in range(TEXTS)]
        here, dear = zip(*[timed(lambda text=text: inline.score_within(text, rows_max).status == "dear") for text in texts], strict=True)  # type: ignore[misc]
        there = [timed(lambda text=text: whole.score(text))[0] for text in texts]  # type: ignore[misc]
        found[kind] = {
            "words": len(words_in(texts[0].lower())),
            "left_to_the_process": sum(dear),
            "inline_us": round(statistics.median(here)),
            "inline_us_best": round(min(here)),
            "whole_us": round(statistics.median(there)),
            "whole_us_best": round(min(there)),
        }
    return found


def timed(step: Callable[[], Any]) -> tuple[float, Any]:
    """CPU microseconds, and what was found."""
    begun = time.thread_time_ns()
    found = step()
    return (time.thread_time_ns() - begun) / 1000, found


def left(head: Head, prompts: list[str]) -> dict[str, float]:
    """Percent of the prompts that a worker that begins leaves to the process: of the first, of those up to the next of `SHARES`..."""
    scorer = Scorer(head)
    rows_max = INLINE_BYTES_MAX // scorer.row_bytes
    dear = [scorer.score_within(each, rows_max).status == "dear" for each in prompts[: SHARES[-1]]]
    edges = [0, *(each for each in SHARES if each <= len(dear))]
    return {f"{start + 1}-{end}": round(100 * statistics.fmean(dear[start:end]), 1) for start, end in pairwise(edges)}


def table(result: dict[str, Any]) -> str:
    lines = []
    for name, found in result.items():
        lines += ["", f"{name:34} {'words':>6} {'left':>6} {'inline us':>16} {'whole us':>16}"]
        for kind, each in found["kinds"].items():
            here, there = (f"{each[at]} ({each[f'{at}_best']})" for at in ("inline_us", "whole_us"))
            lines.append(f"{kind:34} {each['words']:6} {each['left_to_the_process']:3}/{TEXTS} {here:>16} {there:>16}")
        if shares := found["left_to_the_process_percent"]:
            lines.append("CLINC150 left to the process: " + ", ".join(f"{span}: {share} %" for span, share in shares.items()))
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
