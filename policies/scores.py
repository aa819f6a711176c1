"""Scores: numbers computed from evidence, the log-probabilities (or raw logits) of an answer's tokens.

Confidence is all that log-probabilities can give. Energy, `-logsumexp` of the logits, needs logits: over log-probabilities it would
be 0 by construction. Every set of scores says what it rests on:

- `ok`: every token had what the scores need;
- `partial`: something is a bound or is missing (top-k logits are normalised over the top k; some tokens had no top-k);
- `truncated`: the evidence ended before as many tokens as the hold asked for, and the answer had not ended;
- `unavailable`: no evidence, or evidence that is not numbers.

A worker loads this: standard library and msgspec only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

Status: TypeAlias = Literal["ok", "partial", "truncated", "unavailable"]

MINUS_INFINITY = -9999.0
"""What vLLM and OpenAI write for a log-probability of -inf, which JSON has no word for; anything at or below it is one."""
QUANTILES = (0.1, 0.25, 0.5)
TOKENS_MAX = 131_072
TOP_MAX = 1_024


class Scores(msgspec.Struct, frozen=True):
    """Of one answer, or of the prefix that was held. None where the evidence cannot give it."""

    status: Status
    tokens: int = 0
    mean_logprob: float | None = None
    """Mean of the tokens' log-probabilities, in nats; -inf where a token was impossible."""
    min_logprob: float | None = None
    perplexity: float | None = None
    """exp(-mean_logprob)."""
    margin: float | None = None
    """Mean distance of the two likeliest tokens' log-probabilities, at each position."""
    first_margin: float | None = None
    """The same at the first position alone."""
    entropy: float | None = None
    """Mean entropy in nats over the top k, what lies outside them counted as one more token."""
    energy: float | None = None
    """Mean of -logsumexp over the top-k logits: an upper bound of the energy over all of them."""
    sorted_logprobs: tuple[float, ...] = ()

    def quantile_logprob(self, q: float) -> float | None:
        """The lower q-quantile of the tokens' log-probabilities: the ceil(q n)-th smallest."""
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile is from 0 to 1, not {q}")
        if not self.sorted_logprobs:
            return None
        return self.sorted_logprobs[max(0, math.ceil(q * self.tokens) - 1)]


UNAVAILABLE = Scores(status="unavailable")


class Tally:
    """Takes the evidence of an answer token by token; `scores()` may be asked at any time."""

    __slots__ = ("_broken", "_energy", "_entropy", "_first_margin", "_logits", "_logprobs", "_margin", "_ranked", "_tops")

    def __init__(self, *, logits: bool = False) -> None:
        self._logits = logits
        self._logprobs: list[float] = []
        self._tops = self._ranked = 0
        self._margin = self._entropy = self._energy = 0.0
        self._first_margin: float | None = None
        self._broken = False

    def __len__(self) -> int:
        return len(self._logprobs)

    def add(self, logprob: float | None, top: Sequence[float | None] | None = None) -> None:
        """One token: its log-probability (its logit where the evidence is logits) and those of the likeliest tokens there."""
        if len(self._logprobs) >= TOKENS_MAX:
            return
        own = _read(logprob)
        if own is None:
            self._broken = True
            return
        if top is not None and len(top):
            values = [number for each in top[:TOP_MAX] if (number := _read(each)) is not None]
            if len(values) < min(len(top), TOP_MAX) or (self._logits and max(values) == -math.inf):
                self._broken = True
                return
            own = self._take_top(own, sorted(values, reverse=True))
        elif self._logits:
            self._broken = True
            return
        self._logprobs.append(min(own, 0.0))

    def _take_top(self, own: float, top: list[float]) -> float:
        if self._logits:
            whole = top if own <= top[0] and own in top else [*top, own]
            peak = max(whole)
            mass = peak + math.log(sum(math.exp(each - peak) for each in whole))
            self._energy -= mass
            own -= mass
            top = [each - mass for each in top]
        self._tops += 1
        inside = 0.0
        entropy = 0.0
        for each in top:
            share = math.exp(min(each, 0.0))
            inside += share
            if share > 0:
                entropy -= share * each
        if (outside := 1 - inside) > 1e-9 and not self._logits:
            entropy -= outside * math.log(outside)
        self._entropy += max(entropy, 0.0)
        if len(top) > 1:
            # An impossible second token is as far off as JSON can say; the mean stays a number.
            margin = min(top[0] - top[1], -MINUS_INFINITY) if top[0] > -math.inf else 0.0
            self._margin += margin
            self._ranked += 1
            if not self._logprobs:
                self._first_margin = margin
        return own

    def scores(self, *, truncated: bool = False) -> Scores:
        """Of what has come so far; `truncated`: less has come than the hold asked for, and no more will."""
        count = len(self._logprobs)
        if self._broken or not count:
            return UNAVAILABLE
        ordered = tuple(sorted(self._logprobs))
        mean = math.fsum(ordered) / count if ordered[0] > -math.inf else -math.inf
        whole = not self._logits and self._tops in (0, count)
        return Scores(
            status="truncated" if truncated else "ok" if whole else "partial",
            tokens=count,
            mean_logprob=mean,
            min_logprob=ordered[0],
            perplexity=math.exp(-mean) if mean > -700 else math.inf,
            margin=self._margin / self._ranked if self._ranked else None,
            first_margin=self._first_margin,
            entropy=self._entropy / self._tops if self._tops else None,
            energy=self._energy / self._tops if self._logits and self._tops else None,
            sorted_logprobs=ordered,
        )


def score(
    logprobs: Sequence[float | None],
    top_logprobs: Sequence[Sequence[float | None] | None] | None = None,
    *,
    logits: bool = False,
    truncated: bool = False,
) -> Scores:
    """The scores of a whole answer, or of a prefix of one; `top_logprobs` has a list a token."""
    if top_logprobs is not None and len(top_logprobs) != len(logprobs):
        return UNAVAILABLE
    tally = Tally(logits=logits)
    for position, each in enumerate(logprobs):
        tally.add(each, top_logprobs[position] if top_logprobs is not None else None)
    return tally.scores(truncated=truncated)


def features(scores: Scores) -> dict[str, float]:
    """What a learned score is computed from; finite numbers only, and none where the scores are unavailable."""
    if scores.status == "unavailable":
        return {}
    found = {
        "mean_logprob": scores.mean_logprob,
        "min_logprob": scores.min_logprob,
        **{f"quantile_logprob_{q:g}": scores.quantile_logprob(q) for q in QUANTILES},
        "tokens": float(scores.tokens),
        "margin": scores.margin,
        "first_margin": scores.first_margin,
        "entropy": scores.entropy,
        "energy": scores.energy,
    }
    return {name: max(value, MINUS_INFINITY) for name, value in found.items() if value is not None}


def _read(value: float | None) -> float | None:
    """A number, -inf for what stands for it, None for what is no log-probability and no logit."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float) or value != value or value == math.inf:
        return None
    return -math.inf if value <= MINUS_INFINITY else float(value)
