"""The bet: capital grows to 1 / alpha by luck at most as often as alpha, and where there is something to show it does."""

from __future__ import annotations

import numpy as np
import pytest

from policies.calibration.betting import capital


@pytest.mark.parametrize("kind", ["rare and large", "often and small", "both ways", "certain"])
@pytest.mark.parametrize("n", [30, 300])
def test_it_is_seldom_fooled(kind: str, n: int) -> None:
    epsilon, alpha, draws = 0.05, 0.1, 3_000
    random = np.random.default_rng(7)
    losses = {
        "rare and large": (random.random((n, draws)) < epsilon).astype(float),
        "often and small": random.beta(0.5, 9.5, (n, draws)),
        "both ways": np.where(random.random((n, draws)) < (1 + epsilon) / 2, 1.0, -1.0),
        "certain": np.full((n, draws), epsilon),
    }[kind]
    assert np.mean(capital(losses, epsilon, alpha) >= 1 / alpha) <= alpha + 0.02


def test_it_wins_where_nothing_is_lost() -> None:
    assert capital(np.zeros((500, 1)), 0.05, 0.05)[0] >= 20


def test_order_of_columns_does_not_matter() -> None:
    losses = np.random.default_rng(1).uniform(-1, 1, (50, 4)) * 0.1
    assert capital(losses[:, ::-1], 0.02, 0.05).tolist() == capital(losses, 0.02, 0.05)[::-1].tolist()
