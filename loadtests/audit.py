"""How soon audits notice that a small model has become worse, and how often they cry wolf: `python -m loadtests.audit`.

No gateway runs: audits are drawn, and the watch of `monitors.audit` looks at each. Figures of docs/cascade.md.
"""

from __future__ import annotations

import random
import statistics

import msgspec

from monitors.audit import Bounds, Share, Watch

SEEDS = 200
EPSILON = 0.01
CONFIDENCE = 0.95
HORIZON = 10_000


class Drop(msgspec.Struct, frozen=True):
    """What happens to a route: so many audits at the first agreement, then the second."""

    share: float
    """Accepted, of all requests."""
    good: float
    bad: float
    before: int


def caught_after(drop: Drop, seed: int, horizon: int = HORIZON) -> int | None:
    """Audits from the drop to the alarm; 0 or less: it came before; None: not within the horizon."""
    chance = random.Random(seed)
    watch = Watch(EPSILON, CONFIDENCE)
    for number in range(1, drop.before + horizon + 1):
        agreement = drop.good if number <= drop.before else drop.bad
        watch.add(drop.share if chance.random() >= agreement else 0.0)
        if watch.alarmed:
            return number - drop.before
    return None


def delays(drop: Drop, seeds: int = SEEDS) -> tuple[float, float, float]:
    """Median and 90 % of the audits until it is caught, and the share of seeds in which the alarm came before the drop."""
    found = [caught_after(drop, seed) for seed in range(seeds)]
    early = sum(each is not None and each <= 0 for each in found) / seeds
    late = sorted(float("inf") if each is None else each for each in found if each is None or each > 0)
    return statistics.median(late), late[max(0, -(-9 * len(late) // 10) - 1)], early


def false_alarms(share: float, agreement: float, seeds: int = SEEDS, audits: int = HORIZON) -> float:
    """Share of seeds that raise an alarm within so many audits of a promise that is kept."""
    return sum(caught_after(Drop(share, agreement, agreement, 0), seed, audits) is not None for seed in range(seeds)) / seeds


def false_alarms_of_traffic(share: float, audited: float, seeds: int = SEEDS, audits: int = HORIZON) -> float:
    """The same at a loss of exactly epsilon, where the accepted share is not known but counted, as it is in service."""
    alarms = 0
    for seed in range(seeds):
        chance, known, watch = random.Random(seed), Share(), Watch(EPSILON, CONFIDENCE)
        while watch.audits < audits and not watch.alarmed:
            accepted = chance.random() < share
            if accepted and chance.random() < audited:
                watch.add(known.value if chance.random() < EPSILON / share else 0.0)
            known.add(accepted)
        alarms += watch.alarmed
    return alarms / seeds


def confirmed_after(share: float, agreement: float, seed: int, horizon: int = HORIZON) -> int | None:
    """Audits until the upper bound has come down to epsilon, looked at every 10."""
    chance = random.Random(seed)
    bounds = Bounds(CONFIDENCE)
    for number in range(1, horizon + 1):
        bounds.add(share, chance.random() < agreement)
        if number % 10 == 0 and bounds.upper <= EPSILON:
            return number
    return None


def main() -> None:
    print(f"epsilon {EPSILON:.0%}, confidence {CONFIDENCE:.0%}, {SEEDS} seeds; audits")
    for share in (1.0, 0.6):
        for before in (0, 1_000, 10_000):
            median, most, early = delays(Drop(share, 0.995, 0.95, before))
            found = f"caught after {median:.0f} (median), {most:.0f} (90 %); early {early:.1%}"
            print(f"accepted {share:.0%}, 99.5 % -> 95 % after {before:>6}: {found}")
    for share, agreement in ((1.0, 0.995), (1.0, 0.99), (0.6, 1 - EPSILON / 0.6)):
        print(f"accepted {share:.0%}, agreement {agreement:.2%}: false alarms within {HORIZON}: {false_alarms(share, agreement):.1%}")
    for share, audited in ((0.6, 0.2), (0.3, 1.0)):
        found = f"{false_alarms_of_traffic(share, audited):.1%}"
        print(f"accepted {share:.0%} (counted), {audited:.0%} audited, loss {EPSILON:.0%}: false alarms within {HORIZON}: {found}")
    for share, agreement in ((1.0, 0.998), (0.6, 0.995)):
        confirmed = [confirmed_after(share, agreement, seed) or HORIZON for seed in range(SEEDS // 4)]
        print(f"accepted {share:.0%}, agreement {agreement:.1%}: confirmed after {statistics.median(confirmed):.0f} (median)")


if __name__ == "__main__":
    main()
