"""What audits say of a cascade: is what it promised still true. Every bound holds at all times at once, however often it is looked at.

The quantity is the accepted share times the conditional loss: of all requests, the share whose answer a cheap stage gave and the last
stage does not agree with. Of each audited reply it is `share * loss`: the accepted share of late, which all records tell, and a loss of 0
(agrees) or 1.

Two bets, both after Waudby-Smith and Ramdas 2024 (a gambler whose capital cannot grow while the hypothesis is true, Ville):

- `Watch` bets that the loss is over epsilon *now*. It raises the alarm, and is wrong with a chance of at most 1 - confidence over
  its whole life as long as the loss was never over epsilon. After a long good time it still has its money: most of it is in cash,
  and a little of that is staked anew at every audit (fixed share, Herbster and Warmuth 1998).
- `Bounds` are of the mean since the beginning. They are computed from counts, so two of them merge by adding, and they hold
  even where the loss moves meanwhile: stakes that do not change need no more than the mean (Jensen).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import final

import msgspec

BINS = 200
"""In which the accepted share is counted: a step of 0.5 %."""
RATIOS = (2.0, 4.0, 8.0)
"""Losses, as multiples of epsilon, against which the watch's stakes are best."""
STAKE_MAX = 0.9
"""Of a stake's money, on one audit that agrees."""
PATIENCE = 50
"""The audits after which the first share of the cash has been staked: at the n-th, 1 / (n + PATIENCE) of it is."""
HOME = 0.001
"""Of what is staked, taken back at every audit."""
SHARE_REQUESTS = 2_000
"""Requests that the accepted share of late looks back on."""
_STAKES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
"""Of the most that can be staked, for the upper bound."""
_STAKES_BELOW = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25)
"""The same for the lower bound."""
_HALVINGS = 40


@final
class Watch(msgspec.Struct):
    """Has the loss been over epsilon? One that goes on from its fields is the same."""

    epsilon: float
    confidence: float
    audits: int = 0
    cash: float = 1.0
    staked: tuple[float, ...] = (0.0,) * len(RATIOS)
    peak: float = 1.0
    """The most that it ever had; it began with 1."""

    @property
    def alarmed(self) -> bool:
        """With the confidence that was asked for, it has been."""
        return self.peak >= 1 / (1 - self.confidence)

    def add(self, loss: float) -> None:
        """One audit: accepted share times loss, 0..1."""
        if not 0 <= loss <= 1:
            raise ValueError(f"a loss is from 0 to 1, not {loss}")
        self.audits += 1
        moved = self.cash / (self.audits + PATIENCE)
        home = HOME * sum(self.staked)
        gain = loss - self.epsilon
        self.staked = tuple(
            [
                ((1 - HOME) * money + moved / len(RATIOS)) * (1 + min((ratio - 1) / (1 - self.epsilon), STAKE_MAX / self.epsilon) * gain)
                for ratio, money in zip(RATIOS, self.staked, strict=True)
            ]
        )
        self.cash += home - moved
        # Nothing is won beyond what counts: a number stays a number.
        self.peak = max(self.peak, self.cash + sum(self.staked))
        if self.peak > 1e9:
            self.cash, self.staked = 1e9, (0.0,) * len(RATIOS)


@final
class Bounds(msgspec.Struct):
    """Bounds of the mean of share times loss over all audits so far, from counts by accepted share.

    An audit that could not be told (`missing`) is a loss for the upper bound and none for the lower one.
    """

    confidence: float
    audits: int = 0
    """Those that could be told and those that could not."""
    lost: dict[int, int] = {}
    """How many were lost, by accepted share in steps of 1 / BINS."""
    missing: dict[int, int] = {}

    def add(self, share: float, agreed: bool | None) -> None:
        """One audit, where `share` of all requests were accepted of late; None: it could not be told."""
        if not 0 <= share <= 1:
            raise ValueError(f"a share is from 0 to 1, not {share}")
        self.audits += 1
        if not agreed:
            counts = self.missing if agreed is None else self.lost
            step = max(1, math.ceil(share * BINS))  # never less than it was
            counts[step] = counts.get(step, 0) + 1

    def merged(self, other: Bounds) -> Bounds:
        """Of the audits of both."""
        if self.confidence != other.confidence:
            raise ValueError("bounds of another confidence")
        return Bounds(self.confidence, self.audits + other.audits, _sum(self.lost, other.lost), _sum(self.missing, other.missing))

    @property
    def estimate(self) -> float | None:
        """Of those that could be told; None before the first."""
        told = self.audits - sum(self.missing.values())
        return _total(self.lost) / told if told else None

    @property
    def upper(self) -> float:
        """The mean is at most this, with the confidence: 1 while nothing is known."""
        losses = {step / BINS: count for step, count in _sum(self.lost, self.missing).items()}
        return _edge(lambda mean: _capital(self.audits, losses, mean, above=True) < self._goal)

    @property
    def lower(self) -> float:
        """The mean is at least this, with the confidence."""
        losses = {(step - 1) / BINS: count for step, count in self.lost.items()}
        return _edge(lambda mean: _capital(self.audits, losses, mean, above=False) >= self._goal)

    @property
    def _goal(self) -> float:
        return -math.log(1 - self.confidence)


@final
class Share(msgspec.Struct):
    """The share of the latest requests that were accepted, older ones fading."""

    accepted: float = 0.5
    requests: float = 1.0

    @property
    def value(self) -> float:
        return self.accepted / self.requests

    def add(self, accepted: bool) -> None:
        """One request."""
        self.accepted += accepted - self.accepted / SHARE_REQUESTS
        self.requests += 1 - self.requests / SHARE_REQUESTS


def _capital(audits: int, losses: Mapping[float, int], mean: float, *, above: bool) -> float:
    """Log of what one has who bet that the mean is not `mean` or above it (not `mean` or below it), mixed over the stakes."""
    room = 1 - mean if above else mean
    if room <= 0:
        return math.inf if above else 0.0
    agreed = audits - sum(losses.values())
    found = []
    for part in _STAKES if above else _STAKES_BELOW:
        stake = part / room if above else -part / room
        found.append(agreed * math.log1p(stake * mean) + sum(count * math.log1p(stake * (mean - loss)) for loss, count in losses.items()))
    most = max(found)
    return most + math.log(sum(math.exp(each - most) for each in found) / len(found))


def _sum(one: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    return {step: one.get(step, 0) + other.get(step, 0) for step in {*one, *other}}


def _total(losses: dict[int, int]) -> float:
    return sum(step / BINS * count for step, count in losses.items())


def _edge(holds: Callable[[float], bool]) -> float:
    """The largest mean for which it holds, where it holds for every smaller one."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return high if high == 1.0 else low
