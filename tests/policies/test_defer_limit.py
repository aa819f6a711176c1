"""The sliding window of deferrals, against a window that forgets nothing it should not."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.defer_limit import JUDGED_MIN, SLOTS, DeferralWindow, was_deferred
from policies.plan import Judgement
from tests.policies.building import backend, policy, snapshot

EVENTS = st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=200)
"""(seconds since the one before, deferred)"""
LAW = settings(max_examples=150, deadline=None)


@pytest.mark.key("routes[].cascade.defer_limit.percent")
@pytest.mark.key("routes[].cascade.defer_limit.window")
def test_the_limit_of_a_route_as_the_worker_takes_it() -> None:
    stage = {"backend": "small", "hold": "all", "defer_when": {"score": "mean_logprob", "below": -0.35}}
    cascade = {"stages": [stage], "last": "big", "defer_limit": {"percent": 40, "window": "1m"}}
    backends = [backend("small", evidence="logprobs"), backend("big")]
    values = policy(backends=backends, routes=[{"name": "chat", "matches": [{"models": ["chat"]}], "cascade": cascade}])
    route = snapshot(values).policy.routes[0]
    assert route.cascade is not None
    limit = route.cascade.defer_limit
    assert limit is not None
    window = DeferralWindow(limit.percent, limit.window)
    for number in range(100):
        window.count(number / 10, deferred=number % 10 < 4)
    assert window.exceeded(10.0), "40 of 100 were"
    assert window.share(10.0) == 0.4
    assert not window.exceeded(75.0), "a minute later nothing of that counts"
    assert window.share(75.0) == 0.0


def test_few_requests_are_no_share() -> None:
    window = DeferralWindow(40, 600)
    for _ in range(JUDGED_MIN - 1):
        window.count(1.0, deferred=True)
    assert not window.exceeded(1.0)
    window.count(1.0, deferred=True)
    assert window.exceeded(1.0)


@LAW
@given(EVENTS, st.floats(1, 600))
def test_it_counts_what_is_within_the_window_to_one_slot(events: list[tuple[float, bool]], window_s: float) -> None:
    window = DeferralWindow(50, window_s)
    now, all_of_them = 1000.0, []
    for passed, deferred in events:
        now += passed
        window.count(now, deferred=deferred)
        all_of_them.append((now, deferred))
    share = window.share(now)
    slot_s = window_s / SLOTS
    sure = [deferred for at, deferred in all_of_them if at > now - window_s + 2 * slot_s]
    maybe = [deferred for at, deferred in all_of_them if at > now - window_s - slot_s]
    least = sum(sure) / max(1, len(maybe))
    most = sum(maybe) / max(1, len(sure))
    assert least - 1e-9 <= share <= most + 1e-9


@LAW
@given(EVENTS, st.integers(1, 99))
def test_whoever_defers_only_while_it_is_not_exceeded_keeps_the_limit(events: list[tuple[float, bool]], percent: int) -> None:
    window = DeferralWindow(percent, 1e6)
    judged = deferrals = 0
    now = 0.0
    for passed, wants in events:
        now += passed
        deferred = wants and not window.exceeded(now)
        window.count(now, deferred=deferred)
        judged, deferrals = judged + 1, deferrals + deferred
    assert deferrals <= max(JUDGED_MIN, percent / 100 * judged)


@LAW
@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.booleans()), max_size=60))
def test_no_clock_breaks_it(events: list[tuple[float, bool]]) -> None:
    window = DeferralWindow(50, 60)
    for now, deferred in events:
        window.count(now, deferred=deferred)
        assert 0 <= window.share(now) <= 1
    assert len(window._judged) == len(window._deferred) == SLOTS


@pytest.mark.parametrize(("percent", "window_s"), [(0, 60), (100, 60), (40, 0)])
def test_a_limit_that_is_none_cannot_be_made(percent: float, window_s: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 100"):
        DeferralWindow(percent, window_s)


def judged(*words: tuple[str, bool]) -> tuple[Judgement, ...]:
    return tuple(Judgement(number, deferred, by) for number, (by, deferred) in enumerate(words))


@pytest.mark.parametrize(
    ("judgements", "counts"),
    [
        ((), None),
        (judged(("error", True)), None),
        (judged(("no_rule", False)), None),
        (judged(("calibration_disabled", True), ("audit", True)), None),
        (judged(("mean_logprob", False)), False),
        (judged(("defer_limit", False)), False),
        (judged(("when_unscored", True)), True),
        (judged(("mean_logprob", True), ("calibrated", False)), True),
        (judged(("error", True), ("calibrated", False)), False),
    ],
)
def test_what_counts_as_deferred(judgements: Any, counts: bool | None) -> None:
    assert was_deferred(judgements) is counts
