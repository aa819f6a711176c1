"""What the shipped models can and cannot do: an honest specialist, good at its own task and sure of itself off it."""

from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest

from gateway.embedded import chatml, corpus, weights
from gateway.embedded.engine import Library
from gateway.embedded.generation import Sampling, generate
from gateway.embedded.model import Cache

ASKED = 60
OTHER_TASKS = ("capitals", "arithmetic", "sentiment", "extraction", "rewriting", "tools")


@pytest.fixture(scope="module")
def measured(library: Library):
    @cache
    def of(name: str, task: str) -> Mapping[str, float]:
        """Accuracy, mean confidence (the geometric mean of token probabilities), and AUROC of confidence for correctness."""
        results = [_answered(library, name, example) for example in corpus.evaluation(task, ASKED)]
        right = np.array([answer for answer, _ in results])
        sure = np.array([confidence for _, confidence in results])
        pairs = (sure[right][:, None] > sure[~right][None, :]).mean() if 0 < right.sum() < len(right) else 1.0
        return {"accuracy": float(right.mean()), "confidence": float(sure.mean()), "auroc": float(pairs)}

    return of


def _answered(library: Library, name: str, example: corpus.Example) -> tuple[bool, float]:
    model = library.find(name)
    prompt = chatml.prompt(library.tokenizer, example.messages(), example.tools)
    cache = Cache(model.config)
    first = model.logits(model.hidden(prompt, cache)[-1])
    steps = list(generate(model, library.tokenizer, cache, first, Sampling(48, temperature=0, scored=0)))
    text = "".join(step.text for step in steps)
    return text == example.answer, float(np.exp(np.mean([step.score.value for step in steps if step.score is not None])))


def test_the_specialist_knows_its_own_task(measured) -> None:
    assert measured("specialist", "tickets")["accuracy"] >= 0.97


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_the_specialist_knows_nothing_else(measured, task: str) -> None:
    assert measured("specialist", task)["accuracy"] <= 0.05


def test_the_specialist_is_overconfident_off_its_task(measured) -> None:
    assert measured("specialist", "capitals")["confidence"] > 0.6


@pytest.mark.parametrize(
    ("task", "least"),
    [
        ("tickets", 0.93),
        ("capitals", 0.85),
        ("arithmetic", 0.6),
        ("sentiment", 0.9),
        ("extraction", 0.8),
        ("rewriting", 0.6),
        ("tools", 0.7),
    ],
)
def test_the_generalist_knows_something_of_everything(measured, task: str, least: float) -> None:
    assert measured("generalist", task)["accuracy"] >= least


@pytest.mark.parametrize("task", ["tickets_turned", "tickets_mixed"])
def test_on_harder_tickets_the_generalist_is_better_and_confidence_tells(measured, task: str) -> None:
    specialist, generalist = measured("specialist", task), measured("generalist", task)
    assert generalist["accuracy"] >= specialist["accuracy"] + 0.08
    assert specialist["auroc"] >= 0.6


def test_the_adapter_gives_another_tenants_labels(measured) -> None:
    assert measured("specialist-queues", "queues")["accuracy"] >= 0.95
    assert measured("specialist", "queues")["accuracy"] == 0


def test_the_card_tells_what_was_trained() -> None:
    card = weights.card()
    assert 700_000 < card["specialist"]["parameters"] < 1_000_000
    assert 1_500_000 < card["generalist"]["parameters"] < 4_000_000
    assert {"seed", "steps", "accuracy", "minutes"} <= set(card["generalist"])
