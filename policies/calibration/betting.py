"""The test for real-valued quality: a bet against "the mean loss is epsilon or more", valid for every n and every distribution.

The capital of a gambler who stakes on each line's loss being below epsilon is a martingale or worse under H0, so it reaches 1 / alpha
with a chance of at most alpha (Ville; Waudby-Smith and Ramdas 2024). The stake is set anew at each line for what is still missing
and the lines that are left, as a gambler with a date would (Voracek and Orabona 2025), from the variance seen so far.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STAKE_MAX = 0.9
"""Of the capital, on the worst that one line can do."""


def capital(losses: Floats, epsilon: float, alpha: float) -> Floats:
    """The largest capital of each column: `losses` is lines x thresholds, -1..1; a column is rejected where it is >= 1 / alpha."""
    lines, columns = losses.shape
    goal = -math.log(alpha)
    wealth = np.zeros(columns)
    best = np.zeros(columns)
    squares = np.full(columns, 0.25 * epsilon + 0.05)
    limit = STAKE_MAX / (1 - epsilon)
    for line in range(lines):
        gain = epsilon - losses[line]
        missing = np.maximum(goal - wealth, 0.25)
        stake = np.minimum(np.sqrt(2 * missing / (squares / (line + 1) * (lines - line))), limit)
        wealth = np.where(best >= goal, wealth, wealth + np.log1p(stake * gain))
        best = np.maximum(best, wealth)
        squares += gain * gain
    return np.asarray(np.exp(best))
