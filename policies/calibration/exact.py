"""The exact test for answers that are right or wrong: does accepting lose more than epsilon?

With qualities of 0 and 1 the loss of a request is 1 (the cheap answer was worse), -1 (better) or 0, and what is tested is the
difference of two proportions of one multinomial sample: H0 "p - q >= epsilon", p and q the shares of +1 and -1.

The statistic is the score statistic of paired proportions (Tango 1998). Its p-value is unconditional: the largest chance, over every
q that the sample leaves plausible, of a sample that speaks as loudly against H0 (Berger and Boos 1994), summed up over the
multinomial itself, so that it holds for every n. The region is a down-set in the worse and an up-set in the better answers, hence
the largest chance under H0 is found on its edge p = q + epsilon.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SPENT = 0.0002
"""Of alpha, on the range of q (Berger and Boos's beta)."""
POINTS = 16
"""Values of q that are tried within its range; the chance is smooth in q on a scale far wider than their distance."""
_SPAN = 7.0
"""Standard deviations of a count that are summed (and `_PAD` more, for small counts); what lies outside weighs less than `_BEYOND`."""
_PAD = 20
_BEYOND = 1e-10

Floats = NDArray[np.float64]


@lru_cache(maxsize=8)
def _log_factorials(n: int) -> Floats:
    return np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1, dtype=np.float64)))))


def statistic(n: int, worse: Floats | float, better: Floats | float, epsilon: float) -> Floats:
    """How many standard errors the loss lies below epsilon, the variance estimated under H0."""
    b = (worse + better) * (1 - epsilon) - 2 * epsilon * (n - worse)
    q = (b + np.sqrt(b * b + 8 * n * better * epsilon * (1 - epsilon))) / (4 * n)
    variance = np.maximum(n * (2 * q + epsilon - epsilon * epsilon), 1e-12)
    return np.asarray((n * epsilon - worse + better) / np.sqrt(variance))


def p_value(n: int, worse: int, better: int, epsilon: float) -> float:
    """Of H0 "the mean loss is epsilon or more", from counts of `n` requests."""
    if worse - better >= n * epsilon:
        return 1.0
    low, high = _plausible(n, better)
    high = min(high, (1 - epsilon) / 2 - 1e-9)
    low = min(low, high)
    seen = float(statistic(n, float(worse), float(better), epsilon)) - 1e-9
    steps = np.linspace(math.sqrt(low), math.sqrt(high), POINTS) ** 2
    return min(1.0, max(_chance(n, q, epsilon, seen) for q in steps.tolist()) + SPENT)


def _chance(n: int, q: float, epsilon: float, seen: float) -> float:
    """Of a statistic of at least `seen` where q is the share of better answers and q + epsilon that of worse ones."""
    p = q + epsilon
    worse, better = _window(n, p), _window(n, q)
    reached = statistic(n, worse[None, :], better[:, None], epsilon) >= seen
    logs = _log_factorials(n)
    a, b = worse.astype(np.int64)[None, :], better.astype(np.int64)[:, None]
    rest = n - a - b
    reached &= rest >= 0
    rest = np.maximum(rest, 0)
    log_q = math.log(q) if q > 0 else 0.0
    left = 1 - p - q
    log_left = math.log(left) if left > 0 else -1e9
    weight = logs[n] - logs[a] - logs[b] - logs[rest] + a * math.log(p) + b * log_q + rest * log_left
    return float(np.exp(weight[reached]).sum()) + _BEYOND


def _window(n: int, share: float) -> Floats:
    """The counts that a binomial of n and `share` has with all but negligible chance."""
    if share <= 0:
        return np.zeros(1)
    wide = _SPAN * math.sqrt(n * share * (1 - share)) + _PAD
    return np.arange(max(0, math.floor(n * share - wide)), min(n, math.ceil(n * share + wide)) + 1, dtype=np.float64)


def _plausible(n: int, count: int) -> tuple[float, float]:
    """A Clopper-Pearson range of a share at confidence 1 - SPENT."""
    return share_below(n, count, SPENT / 2), share_above(n, count, SPENT / 2)


def share_above(n: int, count: int, alpha: float) -> float:
    """Upper Clopper-Pearson bound of a share at confidence 1 - alpha."""
    if count >= n:
        return 1.0
    low, high = count / n, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(n, count, middle) > alpha else (low, middle)
    return high


def share_below(n: int, count: int, alpha: float) -> float:
    """Lower Clopper-Pearson bound of a share at confidence 1 - alpha."""
    return 1 - share_above(n, n - count, alpha)


def _at_most(n: int, count: int, share: float) -> float:
    if share <= 0:
        return 1.0
    if share >= 1:
        return float(count >= n)
    counts = np.arange(count + 1)
    logs = _log_factorials(n)
    weight = logs[n] - logs[counts] - logs[n - counts] + counts * math.log(share) + (n - counts) * math.log1p(-share)
    return float(np.exp(weight).sum())


class ExactTest:
    """Rejects H0 at `alpha`; what it has worked out is kept: for the same count of better answers, fewer worse ones say no less."""

    def __init__(self, n: int, epsilon: float, alpha: float) -> None:
        self.n, self.epsilon, self.alpha = n, epsilon, alpha
        self._enough: dict[int, int] = {}
        self._too_many: dict[int, int] = {}

    def rejects(self, worse: int, better: int) -> bool:
        """True where the loss is shown to be below epsilon."""
        if worse <= self._enough.get(better, -1):
            return True
        if worse >= self._too_many.get(better, self.n + 1):
            return False
        shown = p_value(self.n, worse, better, self.epsilon) <= self.alpha
        (self._enough if shown else self._too_many)[better] = worse
        return shown


@lru_cache(maxsize=4)
def exact_test(n: int, epsilon: float, alpha: float) -> ExactTest:
    """One test for all calibrations with the same terms in a process: benchmarks make hundreds."""
    return ExactTest(n, epsilon, alpha)
