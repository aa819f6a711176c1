"""From a prompt to tokens: sampling, stop strings, scores. A generator of steps that does nothing between two of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.embedded.constraint import Constraint
from gateway.embedded.model import Cache, Model
from gateway.embedded.tokenizer import IM_END, Detokenizer, Tokenizer
from gateway.embedded.weights import Float32

Finish = Literal["stop", "length"]

MASKED = -9999.0
"""Stands for minus infinity, which JSON cannot say: the value vLLM gives for a token that structured output forbids."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen and when to stop. Temperature 0 takes the likeliest."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all."""
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    scored: int | None = None
    """How many alternatives are scored along with each token; None scores nothing."""
    raw_logits: bool = False
    """Scores are logits, not log-probabilities."""


class Score(NamedTuple):
    """A token and its log-probability or logit, before temperature and penalties."""

    id: int
    value: float


class Step(NamedTuple):
    """One token: the text that is complete with it, its score, the best alternatives, and why it was the last."""

    id: int
    text: str
    score: Score | None
    alternatives: tuple[Score, ...]
    finish: Finish | None


class Stopper:
    """Lets text through except what could be the beginning of a stop string."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""

    def push(self, more: str) -> tuple[str, bool]:
        """Return the text that may go out, and whether a stop string was met."""
        text = self._held + more
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """Return what was held."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` begin `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def generate(
    model: Model,
    tokenizer: Tokenizer,
    cache: Cache,
    first: Float32,
    sampling: Sampling,
    constraint: Constraint | None = None,
    choice: int = 0,
) -> Iterator[Step]:
    """Yield step after step from the logits `first` that the prompt, already in `cache`, led to."""
    random = np.random.default_rng(None if sampling.seed is None else [sampling.seed & 0xFFFFFFFFFFFFFFFF, choice])
    detokenizer, stopper = Detokenizer(tokenizer), Stopper(sampling.stop)
    counts = np.zeros(model.config.vocabulary, np.float32)
    logits = first
    for count in range(1, sampling.max_tokens + 1):
        mask = constraint.allowed() if constraint is not None else None
        if mask is not None:
            logits = np.where(mask, logits, np.float32(-np.inf))
        id_ = _chosen(logits, counts, sampling, random)
        score, alternatives = _scores(logits, id_, sampling)
        ended = id_ == IM_END and (mask is not None or not sampling.ignore_eos)
        text, stopped = ("", False) if ended else stopper.push(detokenizer.push(id_))
        finish: Finish | None = "stop" if ended or stopped else "length" if count == sampling.max_tokens else None
        if finish is not None and not stopped:
            text += stopper.flush() + detokenizer.flush()
        yield Step(id_, text, score, alternatives, finish)
        if finish is not None:
            return
        counts[id_] += 1
        if constraint is not None:
            constraint.wrote(id_)
        logits = model.logits(model.hidden([id_], cache))[0]


def _chosen(logits: Float32, counts: Float32, sampling: Sampling, random: np.random.Generator) -> int:
    if sampling.presence_penalty or sampling.frequency_penalty:
        logits = logits - sampling.frequency_penalty * counts - sampling.presence_penalty * (counts > 0)
    if sampling.logit_bias:
        logits = logits.copy()
        for id_, bias in sampling.logit_bias.items():
            logits[id_] += bias
    if sampling.temperature == 0:
        return int(logits.argmax())
    scaled = (logits - logits.max()).astype(np.float64) / sampling.temperature
    weights: npt.NDArray[np.float64] = np.exp(scaled)
    if sampling.top_k or sampling.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        mass = np.cumsum(weights[order])
        kept = 1 + int(np.searchsorted(mass, sampling.top_p * mass[-1]))
        weights[order[min(kept, sampling.top_k or kept) :]] = 0
    return int(random.choice(len(weights), p=weights / weights.sum()))


def _scores(logits: Float32, id_: int, sampling: Sampling) -> tuple[Score | None, tuple[Score, ...]]:
    """Return the score of the token and of the best `scored` tokens, best first."""
    if sampling.scored is None:
        return None, ()
    values = logits.astype(np.float64)
    if not sampling.raw_logits:
        top = values.max()
        values = values - (top + np.log(np.exp(values - top).sum()))
    values = np.where(np.isfinite(values), values, MASKED)
    best = np.argsort(-values, kind="stable")[: sampling.scored]
    return Score(id_, float(values[id_])), tuple(Score(int(i), float(values[i])) for i in best)
