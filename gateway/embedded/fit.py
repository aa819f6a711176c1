"""Fit what a policy needs to guard the specialist and to put it before the generalist: `python -m gateway.embedded.fit [--out FOLDER]`.

Generates the texts, has the models answer them, and runs `headgate fit ood` and `headgate calibrate cascade` on what it wrote, as
anybody would for models of their own. Takes six minutes on a busy core. The folder `fitted/` then has `detector.npz`,
`calibration.json` and `card.json`: how both were made, and how well they do on texts of their own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gateway.embedded import chatml, corpus, tickets
from gateway.embedded.engine import Library, choices, load_library
from gateway.embedded.generation import Sampling

FITTED = Path(__file__).parent / "fitted"
DETECTOR, CALIBRATION, CARD = "detector.npz", "calibration.json", "card.json"

HOLD_TOKENS = 8
"""A policy that uses the calibration must hold as many: a label is shorter, a reply longer."""
EPSILON = 0.02
COST = "small=0.36,large=1"
"""By the numbers of parameters."""
TOP = 5
"""Likeliest tokens of the evidence, as many as the entropy needs."""
TOKENS_MAX = 64


class Part(NamedTuple):
    """Texts for one purpose."""

    seed: int
    texts: int


TRAIN, HOLDOUT = Part(1, 2_000), Part(2, 1_000)
LEARN, CERTIFY, JUDGE = Part(21, 2_500), Part(22, 2_500), Part(23, 2_000)
"""What the score is learned on, what chooses the threshold, and what neither has seen."""
FOREIGN = ("capitals", "arithmetic", "sentiment", "extraction", "rewriting", "tools")
"""Tasks that the specialist was not trained for."""
FOREIGN_TEXTS = 300

Line = Mapping[str, Any]


def drawn(examples: Iterator[corpus.Example], count: int) -> list[corpus.Example]:
    """The next `count` examples with different prompts."""
    found: dict[str, corpus.Example] = {}
    while len(found) < count:
        example = next(examples)
        found.setdefault(example.prompt, example)
    return list(found.values())


def label_of(example: corpus.Example) -> str:
    """The label of the ticket in an example that asks for it, for JSON with it, or for a reply."""
    if example.task == "replies":
        return next(label for label, reply in tickets.REPLIES.items() if reply == example.answer)
    return str(json.loads(example.answer)["label"]) if example.task == "json" else example.answer


def training_lines() -> list[Line]:
    """What the specialist is trained for, as its own training text has it: with worn tickets, replies and JSON."""
    examples = drawn(corpus.specialist(TRAIN.seed), TRAIN.texts)
    return [{"text": example.prompt, "label": label_of(example)} for example in examples]


def traffic_lines(part: Part) -> list[Line]:
    """Tickets as they come in; nobody was trained on them."""
    return [{"text": example.prompt} for example in drawn(corpus.traffic(part.seed), part.texts)]


def answered(library: Library, model: str, prompt: str) -> tuple[str, list[float], list[list[float]]]:
    """A model's likeliest answer, and of each token its log-probability and those of the `TOP` likeliest ones."""
    ids = chatml.prompt(library.tokenizer, [{"role": "user", "content": prompt}], ())
    text, logprobs, likeliest = "", [], []
    for _, step in choices(library, library.find(model), ids, Sampling(TOKENS_MAX, temperature=0, scored=TOP), [None]):
        assert step.score is not None
        text += step.text
        logprobs.append(round(step.score.value, 6))
        likeliest.append([round(each.value, 6) for each in step.alternatives])
    return text, logprobs, likeliest


def pair(library: Library, example: corpus.Example, ood_score: float) -> Line:
    """One request that both models answered: a line for `headgate calibrate cascade`. An answer is right or wrong."""
    small, logprobs, likeliest = answered(library, "specialist", example.prompt)
    large, _, _ = answered(library, "generalist", example.prompt)
    return {
        "evidence": {"logprobs": logprobs, "top_logprobs": likeliest},
        "features": {"ood_score": ood_score},
        "quality": {"small": int(small == example.answer), "large": int(large == example.answer)},
    }


def pairs(library: Library, part: Part, work: Path, detector: Path) -> list[Line]:
    """Of the traffic that the guard lets through, since only that is judged."""
    examples = drawn(corpus.traffic(part.seed), part.texts)
    found = scored([{"text": example.prompt} for example in examples], work, detector)
    return [pair(library, example, seen["score"]) for example, seen in zip(examples, found, strict=True) if not seen["ood"]]


def headgate(*words: str | Path) -> str:
    """Run a headgate command and return what it prints. Raises subprocess.CalledProcessError."""
    command = [sys.executable, "-m", "gateway.cli.main", *map(str, words)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, text=True).stdout


def scored(lines: Sequence[Line], work: Path, detector: Path) -> list[Any]:
    """What the detector says of each text."""
    printed = headgate("score", "ood", "--detector", detector, "--texts", written(work / "texts.jsonl", lines), "--output", "json")
    return [json.loads(line) for line in printed.splitlines()]


def written(path: Path, lines: Iterable[Line]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def fit_detector(work: Path) -> dict[str, Any]:
    """Write the detector; returns the facts for the card."""
    train, holdout = written(work / "train.jsonl", training_lines()), written(work / "holdout.jsonl", traffic_lines(HOLDOUT))
    made = work / DETECTOR
    # Without a pretrained table, so that whoever fits it gets the same file.
    options = ("--train", train, "--holdout", holdout, "--out", made, "--pretrained", "none", "--output", "json")
    report = json.loads(headgate("fit", "ood", *options))
    foreign = {task: [each.prompt for each in corpus.evaluation(task, FOREIGN_TEXTS)] for task in FOREIGN}
    own = traffic_lines(JUDGE)
    inside = scored(own, work, made)
    outside = {task: scored([{"text": text} for text in texts], work, made) for task, texts in foreign.items()}
    return {
        "texts": {"train": digest(train), "holdout": digest(holdout)},
        "threshold": report["threshold"],
        "flagged_of_tickets": share(each["ood"] for each in inside),
        "flagged": {task: share(each["ood"] for each in found) for task, found in outside.items()},
        "auroc": {task: auroc([each["score"] for each in inside], [each["score"] for each in found]) for task, found in outside.items()},
    }


def calibrate(work: Path, library: Library) -> dict[str, Any]:
    """Write the calibration; returns the facts for the card."""
    learn, certify, judge = (
        written(work / f"{name}.jsonl", pairs(library, part, work, work / DETECTOR))
        for name, part in (("learn", LEARN), ("certify", CERTIFY), ("judge", JUDGE))
    )
    files = ("--train", learn, "--data", certify, "--evaluate", judge, "--out", work / CALIBRATION)
    bound = ("--backend", "specialist", "--prefix-tokens", HOLD_TOKENS)
    terms = ("--epsilon", EPSILON, "--cost", COST, "--output", "json")
    report = json.loads(headgate("calibrate", "cascade", *files, *map(str, (*bound, *terms))))
    return {name: report[name] for name in ("promise", "enabled", "deferred", "saving", "loss", "evaluation")}


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def share(flags: Iterable[bool]) -> float:
    """The share that is true, from 0 to 1."""
    seen = list(flags)
    return round(sum(seen) / len(seen), 4)


def auroc(inside: Sequence[float], outside: Sequence[float]) -> float:
    """How often, in percent, a foreign text has the higher score of a pair."""
    above = sum((out > own) + (out == own) / 2 for own in inside for out in outside)
    return round(100 * above / (len(inside) * len(outside)), 2)


def main() -> None:
    """Fit both, and write the card."""
    parser = argparse.ArgumentParser(prog="python -m gateway.embedded.fit", description=__doc__)
    parser.add_argument("--out", type=Path, default=FITTED)
    folder: Path = parser.parse_args().out
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="headgate-fit-") as name:
        work = Path(name)
        try:
            card = {"detector": fit_detector(work), "calibration": calibrate(work, load_library())}
        except subprocess.CalledProcessError as error:
            refused = f"`headgate {' '.join(error.cmd[3:5])}` has refused, as it says above; nothing was written"
            raise SystemExit(f"python -m gateway.embedded.fit: {refused}") from None
        for made in (DETECTOR, CALIBRATION):
            (folder / made).write_bytes((work / made).read_bytes())
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(card, indent=1))


if __name__ == "__main__":
    main()
