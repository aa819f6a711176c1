"""What the shipped models can and cannot do: an honest specialist, good at its own task and sure of itself off it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from gateway.embedded import chatml, corpus, weights
from gateway.embedded.engine import Library

ASKED = 60
OTHER_TASKS = ("capitals", "arithmetic", "sentiment", "extraction", "rewriting", "tools")


@dataclass(frozen=True)
class Measured:
    """One model on one task: which answers were right, and how sure it was (the geometric mean of the tokens' probabilities)."""

    right: npt.NDArray[np.bool_]
    confidence: npt.NDArray[np.float64]

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def auroc(self) -> float:
        """How often a right answer has the higher confidence."""
        return float((self.confidence[self.right][:, None] > self.confidence[~self.right][None, :]).mean())


Measure = Callable[[str, str], Measured]


@pytest.fixture(scope="module")
def measured(library: Library, base_url: str) -> Iterator[Measure]:
    with httpx.Client(base_url=base_url, timeout=30) as http:

        @cache
        def of(name: str, task: str) -> Measured:
            results = [answered(http, library, name, example) for example in corpus.evaluation(task, ASKED)]
            return Measured(np.array([right for right, _ in results]), np.array([confidence for _, confidence in results]))

        yield of


def answered(http: httpx.Client, library: Library, name: str, example: corpus.Example) -> tuple[bool, float]:
    """Ask by the completions endpoint, where a tool call is text like any other."""
    prompt = chatml.prompt(library.tokenizer, example.messages(), example.tools)
    asked = {"model": name, "prompt": prompt, "temperature": 0, "max_tokens": 48, "logprobs": 0}
    choice = http.post("/v1/completions", json=asked).json()["choices"][0]
    return choice["text"] == example.answer, float(np.exp(np.mean(choice["logprobs"]["token_logprobs"])))


def test_the_specialist_knows_its_own_task(measured: Measure) -> None:
    assert measured("specialist", "tickets").accuracy >= 0.97


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_the_specialist_knows_nothing_else(measured: Measure, task: str) -> None:
    assert measured("specialist", task).accuracy <= 0.05


def test_the_specialist_is_overconfident_off_its_task(measured: Measure) -> None:
    assert measured("specialist", "capitals").confidence.mean() > 0.6


@pytest.mark.parametrize(
    ("task", "least"),
    [
        ("tickets", 0.93),
        ("capitals", 0.85),
        ("arithmetic", 0.8),
        ("sentiment", 0.9),
        ("extraction", 0.8),
        ("rewriting", 0.6),
        ("tools", 0.5),
    ],
)
def test_the_generalist_knows_something_of_everything(measured: Measure, task: str, least: float) -> None:
    assert measured("generalist", task).accuracy >= least


@pytest.mark.parametrize("task", ["tickets_turned", "tickets_mixed"])
def test_on_harder_tickets_the_generalist_is_better(measured: Measure, task: str) -> None:
    assert measured("generalist", task).accuracy >= measured("specialist", task).accuracy + 0.1


def test_the_specialist_is_less_sure_where_it_is_wrong(measured: Measure) -> None:
    """So a cascade has something to win, though on tickets with two problems alone its confidence says next to nothing."""
    assert measured("specialist", "tickets_turned").auroc >= 0.7
    parts = [measured("specialist", task) for task in ("tickets", "tickets_turned", "tickets_mixed")]
    pooled = Measured(np.concatenate([part.right for part in parts]), np.concatenate([part.confidence for part in parts]))
    assert pooled.auroc >= 0.75


def test_the_adapter_gives_another_tenants_labels(measured: Measure) -> None:
    assert measured("specialist-queues", "queues").accuracy >= 0.95
    assert measured("specialist", "queues").accuracy == 0


def test_the_card_tells_what_was_trained() -> None:
    card = weights.card()
    assert 700_000 < card["specialist"]["parameters"] < 1_000_000
    assert 1_500_000 < card["generalist"]["parameters"] < 4_000_000
    assert {"seed", "steps", "accuracy", "minutes"} <= set(card["generalist"])
