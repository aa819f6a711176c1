from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.retry import BACKOFF_MAX_S, BUDGET_FLOOR_PER_S, BUDGET_WINDOW_S, RETRY_AFTER_MAX_S, RetryBudget, RetryRule
from policies.schema import Retries

FLOOR = BUDGET_FLOOR_PER_S * BUDGET_WINDOW_S


def rule(jitter: float = 1.0, **fields: object) -> RetryRule:
    return RetryRule(Retries(**fields), lambda: jitter)  # type: ignore[arg-type]


def spend_all(budget: RetryBudget, now: float) -> int:
    spent = 0
    while budget.spend(now):
        spent += 1
    return spent


def test_attempts_count_the_first():
    it = rule(attempts=3)
    assert [it.wants("connect", made) for made in (1, 2, 3)] == [True, True, False]
    assert not rule(attempts=1).wants("connect", 1)


def test_only_the_reasons_listed():
    it = rule(retry_on=("503",))
    assert it.wants("503", 1)
    assert not it.wants("429", 1)
    assert not it.wants("connect", 1)


def test_full_jitter_under_a_doubling_bound():
    assert [rule(backoff=0.1, attempts=9).delay(made, None) for made in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert rule(jitter=0.0).delay(3, None) == 0.0
    assert rule(backoff=0.1).delay(5000, None) == BACKOFF_MAX_S


def test_retry_after_is_the_least_and_has_a_bound():
    assert rule(backoff=0.1).delay(1, 2.0) == 2.0
    assert rule(backoff=4.0).delay(1, 2.0) == 4.0
    assert rule().delay(1, RETRY_AFTER_MAX_S + 1) is None


def test_the_floor_and_the_share():
    budget = RetryBudget(10)
    assert spend_all(budget, 100) == FLOOR
    budget = RetryBudget(10)
    for _ in range(1000):
        budget.called(100)
    assert spend_all(budget, 100) == FLOOR + 100


def test_zero_percent_means_none():
    assert not RetryBudget(0).spend(100)


@pytest.mark.parametrize("later", [10.0, 11.5, 1000.0])
def test_the_window_forgets(later):
    budget = RetryBudget(10)
    assert spend_all(budget, 100) == FLOOR
    assert not budget.spend(109.9)
    assert spend_all(budget, 100 + later) == FLOOR


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 60), st.integers(0, 60)), max_size=60))
def test_a_retry_is_granted_exactly_while_the_window_has_room(steps):
    budget = RetryBudget(20)
    now = 50.0
    calls: list[float] = []
    retries: list[float] = []
    for pause, called, wanted in steps:
        now += pause
        for _ in range(called):
            budget.called(now)
            calls.append(now)
        for _ in range(wanted):
            first = int(now) - BUDGET_WINDOW_S + 1
            room = FLOOR + 0.2 * sum(t >= first for t in calls)
            granted = budget.spend(now)
            assert granted == (sum(t >= first for t in retries) < room)
            if granted:
                retries.append(now)
