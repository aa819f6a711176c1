"""Made-up traffic: a cheap model whose confidence says how likely it is wrong, and a dear one that is nearly always right."""

from __future__ import annotations

import numpy as np

from policies.calibration.pairs import Pairs


def traffic(n: int, seed: int, *, hopeless: bool = False, real: bool = False) -> Pairs:
    random = np.random.default_rng(seed)
    confidence = random.random(n) ** 0.3
    kind = random.integers(0, 2, n)
    wrong = np.full(n, 0.5) if hopeless else np.where(kind == 1, 0.04, np.clip(1.2 * (1 - confidence), 0, 1))
    if real:
        small = np.clip(1 - wrong + random.uniform(-0.1, 0.1, n), 0, 1)
        large = np.clip(0.95 + random.uniform(-0.1, 0.05, n), 0, 1)
    else:
        small = (random.random(n) >= wrong).astype(float)
        large = (random.random(n) < 0.97).astype(float)
    return Pairs({"confidence": confidence, "class": kind.astype(float)}, large - small, not real, None)
