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
import operator
from collections.abc import Sequence, Set
from typing import Any, Final, Literal, TypeAlias

import msgspec

Status: TypeAlias = Literal["ok", "partial", "truncated", "unavailable"]

MINUS_INFINITY = -9999.0
"""What vLLM and OpenAI write for a log-probability of -inf, which JSON has no word for; anything at or below it is one."""
ROUNDING = 1e-3
"""A log-probability may be so far above 0; one above that is none, but a logit."""
QUANTILES = (0.1, 0.25, 0.5)
TOKENS_MAX = 131_072
TOP_MAX = 1_024

TopScore: TypeAlias = Literal["margin", "entropy", "energy"]
TOP_SCORES: Final[frozenset[TopScore]] = frozenset(("margin", "entropy", "energy"))
"""The scores that need the likeliest tokens at each position."""

_STATUSES: Final[tuple[Status, ...]] = ("ok", "partial", "truncated", "unavailable")
"""From the best to the worst."""
_exp, _log, _mul = math.exp, math.log, operator.mul
_NEGLIGIBLE = -700.0
"""exp of less is 0 or next to it."""


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
    """Takes the evidence of an answer token by token; `scores()` may be asked at any time. Of what the likeliest tokens give only
    the `wanted` is computed. Logits always need them: they are normalised over them."""

    __slots__ = (
        "_broken",
        "_energy",
        "_entropy",
        "_first_margin",
        "_logits",
        "_logprobs",
        "_margin",
        "_ranked",
        "_tops",
        "_wants_entropy",
        "_wants_margin",
        "_wants_top",
    )

    def __init__(self, *, logits: bool = False, wanted: Set[TopScore] = TOP_SCORES) -> None:
        self._logits = logits
        self._wants_margin = "margin" in wanted
        self._wants_entropy = "entropy" in wanted
        self._wants_top = self._wants_margin or self._wants_entropy
        self._logprobs: list[float] = []
        self._tops = 0
        """Tokens that came with the likeliest ones there."""
        self._ranked = 0
        """Of those, the ones with two or more, which have a margin."""
        self._margin = 0.0
        self._entropy = 0.0
        self._energy = 0.0
        self._first_margin: float | None = None
        self._broken = False

    def __len__(self) -> int:
        return len(self._logprobs)

    def add(self, logprob: object, top: Sequence[object] | None = None) -> None:
        """One token: its log-probability (its logit where the evidence is logits) and those of the likeliest tokens there, in any
        order. What is not a number, or cannot be a log-probability, makes the evidence unavailable."""
        logprobs = self._logprobs
        if self._broken or len(logprobs) >= TOKENS_MAX:
            return
        own = logprob if type(logprob) is float and MINUS_INFINITY < logprob <= 0.0 else _read(logprob)
        if own is None:
            self._broken = True
        elif self._logits:
            self._add_logit(own, top)
        elif own > ROUNDING or (top and self._wants_top and not self._take_top(top)):
            self._broken = True
        else:
            logprobs.append(own if own < 0.0 else 0.0)

    def scores(self, *, truncated: bool = False) -> Scores:
        """Of what has come so far; `truncated`: less has come than the hold asked for, and no more will."""
        logprobs = self._logprobs
        count = len(logprobs)
        if self._broken or not count:
            return UNAVAILABLE
        ordered = tuple(sorted(logprobs))
        mean = math.fsum(ordered) / count if ordered[0] > -math.inf else -math.inf
        whole = not self._logits and (self._tops == 0 or self._tops == count)
        return Scores(
            status="truncated" if truncated else "ok" if whole else "partial",
            tokens=count,
            mean_logprob=mean,
            min_logprob=ordered[0],
            perplexity=math.exp(-mean) if mean > -700 else math.inf,
            margin=self._margin / self._ranked if self._ranked else None,
            first_margin=self._first_margin,
            entropy=self._entropy / self._tops if self._tops and self._wants_entropy else None,
            energy=self._energy / self._tops if self._logits and self._tops else None,
            sorted_logprobs=ordered,
        )

    def _take_top(self, top: Sequence[Any]) -> bool:
        """The likeliest tokens' log-probabilities; False where one of them is none."""
        try:
            ordered = sorted(top, reverse=True)
            shares = list(map(_exp, ordered)) if self._wants_entropy else ordered
            inside = sum(shares)
            plain = inside == inside and ordered[-1] > MINUS_INFINITY and ordered[0] <= 0.0 and len(ordered) <= TOP_MAX
        except (TypeError, OverflowError):
            plain = False
        if not plain:
            found = _read_top(top)
            if found is None:
                return False
            ordered = sorted(found, reverse=True)
            shares = list(map(_exp, ordered))
            inside = sum(shares)
        self._tops += 1
        if self._wants_entropy:
            entropy = -sum(map(_mul, shares, ordered))
            outside = 1.0 - inside
            if outside > 1e-9:
                entropy -= outside * _log(outside)
            if entropy > 0.0:
                self._entropy += entropy
        if self._wants_margin and len(ordered) > 1:
            self._take_margin(ordered[0], ordered[1])
        return True

    def _take_margin(self, best: float, second: float) -> None:
        # An impossible second token is as far off as JSON can say; the mean stays a number.
        margin = best - second if second > MINUS_INFINITY else -MINUS_INFINITY if best > MINUS_INFINITY else 0.0
        self._margin += margin
        self._ranked += 1
        if not self._logprobs:
            self._first_margin = margin

    def _add_logit(self, own: float, top: Sequence[object] | None) -> None:
        """One token of which the logits are known."""
        found: list[float] = []
        best = second = -math.inf
        for each in (top or ())[:TOP_MAX]:
            number = each if type(each) is float and MINUS_INFINITY < each < math.inf else _read(each)
            if number is None:
                self._broken = True
                return
            if number > best:
                best, second = number, best
            elif number > second:
                second = number
            found.append(number)
        if best == -math.inf:
            self._broken = True
            return
        peak = max(best, own)
        inside = weighted = 0.0
        for number in found:
            above = number - peak
            if above > _NEGLIGIBLE:
                share = math.exp(above)
                inside += share
                weighted += share * above
        all_of_it = inside if own <= best and own in found else inside + math.exp(own - peak)
        mass = math.log(all_of_it)
        self._energy -= peak + mass
        self._tops += 1
        if self._wants_entropy:
            self._entropy += max((inside * mass - weighted) / all_of_it, 0.0)
        if self._wants_margin and len(found) > 1:
            self._take_margin(best, second)
        self._logprobs.append(min(own - peak - mass, 0.0))


def worst(each: Sequence[Scores]) -> Scores:
    """The scores of several choices as those of one that is as bad as the worst of them in every respect: a rule that any of them
    would meet by one score, it meets too."""
    if len(each) == 1:
        return each[0]
    if not each or any(scores.status == "unavailable" for scores in each):
        return UNAVAILABLE
    count = max([scores.tokens for scores in each])
    return Scores(
        status=max([scores.status for scores in each], key=_STATUSES.index),
        tokens=count,
        mean_logprob=_least([scores.mean_logprob for scores in each]),
        min_logprob=_least([scores.min_logprob for scores in each]),
        perplexity=_most([scores.perplexity for scores in each]),
        margin=_least([scores.margin for scores in each]),
        first_margin=_least([scores.first_margin for scores in each]),
        entropy=_most([scores.entropy for scores in each]),
        energy=_most([scores.energy for scores in each]),
        # At each rank what stands at the same share of each choice, the lower where their numbers differ.
        sorted_logprobs=tuple(
            [min([scores.sorted_logprobs[rank * scores.tokens // count] for scores in each]) for rank in range(count)],
        ),
    )


def _least(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return min(found) if len(found) == len(values) else None


def _most(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return max(found) if len(found) == len(values) else None


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


def _read_top(top: Sequence[object]) -> list[float] | None:
    """Log-probabilities, none below what stands for -inf and none above 0; None where there is another value."""
    found: list[float] = []
    for each in top[:TOP_MAX]:
        number = _read(each)
        if number is None or number > ROUNDING:
            return None
        found.append(min(max(number, MINUS_INFINITY), 0.0))
    return found


def _read(value: object) -> float | None:
    """A number, -inf for what stands for it, None for what is no log-probability and no logit."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value == math.inf:
        return None
    return -math.inf if value <= MINUS_INFINITY else float(value)
