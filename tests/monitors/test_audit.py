"""The bounds of audits: right at all times at once, mergeable, and not asleep when the model changes."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.audit import EPSILON, Drop, caught_after, delays, false_alarms
from monitors.audit import BINS, Bounds, Share, Watch

AUDITS = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.33, 0.6, 1.0]), st.sampled_from([True, True, True, False, None])), max_size=60)


def bounds(audits: list[tuple[float, bool | None]], confidence: float = 0.95) -> Bounds:
    found = Bounds(confidence)
    for share, agreed in audits:
        found.add(share, agreed)
    return found


def test_a_drop_is_caught_soon_and_no_alarm_comes_before_it() -> None:
    """The small model's agreement falls from 99.5 % to 95 % at an epsilon of 1 %; the figures are those of docs/cascade.md."""
    median, most, early = delays(Drop(1.0, 0.995, 0.95, 1_000))
    assert (median, most) < (250, 450)
    assert early <= 0.05
    median, most, _ = delays(Drop(1.0, 0.995, 0.95, 0))
    assert (median, most) < (110, 280)


def test_false_alarms_are_as_rare_as_was_promised() -> None:
    """10,000 audits at the very edge of the promise."""
    assert false_alarms(1.0, 1 - EPSILON, seeds=60) <= 0.05
    assert false_alarms(0.6, 1 - EPSILON / 0.6, seeds=30) <= 0.05


def test_the_watch_keeps_its_money_in_good_times() -> None:
    watch = Watch(0.01, 0.95)
    for _ in range(100_000):
        watch.add(0.0)
    late = [caught_after(Drop(1.0, 1.0, 0.95, 0), seed) or 0 for seed in range(20)]
    needed = 0
    while not watch.alarmed:
        watch.add(float(needed % 20 == 0))
        needed += 1
    assert needed < 600
    assert max(late) < 600


def test_a_watch_goes_on_from_its_fields() -> None:
    one, chance = Watch(0.02, 0.9), random.Random(3)
    for _ in range(300):
        one.add(0.7 * (chance.random() < 0.01))
    other = msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Watch)
    for each in (one, other):
        each.add(0.7)
    assert one == other
    assert one.peak >= 1


def test_a_watch_that_has_won_stays_a_number() -> None:
    watch = Watch(0.001, 0.95)
    for _ in range(5_000):
        watch.add(1.0)
    assert watch.alarmed
    assert 1e9 <= watch.peak < 1e13


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_what_is_no_loss_and_no_share_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        Watch(0.01, 0.95).add(wrong)
    with pytest.raises(ValueError, match="from 0 to 1"):
        Bounds(0.95).add(wrong, True)


def test_nothing_is_known_at_first() -> None:
    empty = Bounds(0.95)
    assert (empty.lower, empty.estimate, empty.upper) == (0.0, None, 1.0)


@given(AUDITS, AUDITS)
def test_bounds_of_both_are_those_of_one_pass(one: list[tuple[float, bool | None]], other: list[tuple[float, bool | None]]) -> None:
    merged = bounds(one).merged(bounds(other))
    assert merged == bounds(one + other) == bounds(other).merged(bounds(one))
    assert 0.0 <= merged.lower <= merged.upper <= 1.0
    assert merged.estimate is None or 0.0 <= merged.estimate <= 1.0


def test_bounds_of_another_confidence_do_not_merge() -> None:
    with pytest.raises(ValueError, match="confidence"):
        Bounds(0.95).merged(Bounds(0.9))


@given(AUDITS.filter(len), st.integers(0, 59))
def test_an_audit_that_could_not_be_told_is_the_worst_for_both_bounds(audits: list[tuple[float, bool | None]], at: int) -> None:
    at %= len(audits)
    share = audits[at][0]
    told = [bounds([*audits[:at], (share, agreed), *audits[at + 1 :]]) for agreed in (True, False)]
    untold = bounds([*audits[:at], (share, None), *audits[at + 1 :]])
    assert untold.upper == max(each.upper for each in told)
    assert untold.lower == min(each.lower for each in told)


@pytest.mark.parametrize(("share", "loss"), [(1.0, 0.02), (0.6, 0.05), (0.3, 0.5)])
def test_bounds_cover_the_truth_at_every_moment(share: float, loss: float) -> None:
    """One error in twenty runs at the most, for each bound, however often it is looked at."""
    wrong = [0, 0]
    runs = 60
    for seed in range(runs):
        chance, found, missed = random.Random(seed), Bounds(0.95), [False, False]
        for number in range(1, 601):
            found.add(share, chance.random() >= loss)
            if number in (5, 10, 20, 40, 80, 150, 300, 600):
                missed[0] |= found.lower > share * loss
                missed[1] |= found.upper < share * loss
        wrong[0] += missed[0]
        wrong[1] += missed[1]
    assert max(wrong) <= 0.05 * runs + 3


def test_bounds_close_in() -> None:
    chance = random.Random(5)
    found = Bounds(0.95)
    for _ in range(20_000):
        found.add(0.5, chance.random() >= 0.02)
    assert found.estimate == pytest.approx(0.01, abs=0.002)
    assert found.upper - found.lower < 0.005
    assert len(found.lost) == 1


def test_bounds_have_a_fixed_size() -> None:
    found = Bounds(0.95)
    for number in range(5_000):
        found.add(number / 5_000, None if number % 2 else False)
    assert len(found.lost) + len(found.missing) <= 2 * (BINS + 1)


def test_the_share_follows_the_traffic() -> None:
    share = Share()
    assert share.value == 0.5
    for number in range(1_000):
        share.add(number % 4 == 0)
    assert share.value == pytest.approx(0.25, abs=0.01)
    for _ in range(10_000):
        share.add(True)
    assert share.value > 0.99
