from __future__ import annotations

from gateway.upstream.breaker import Breaker
from policies import schema


def breaker(failures: int = 3, open_for: float = 10.0) -> Breaker:
    return Breaker(schema.Breaker(failures=failures, open_for=open_for))


def open_at(now: float, failures: int = 3) -> Breaker:
    it = breaker(failures)
    for _ in range(failures):
        it.failed(now, trial=False)
    return it


def test_opens_at_so_many_failures_in_a_row():
    it = breaker()
    it.failed(0, trial=False)
    it.failed(0, trial=False)
    assert it.allows(0)
    it.failed(0, trial=False)
    assert it.is_open
    assert not it.allows(9.9)


def test_a_success_between_starts_the_count_again():
    it = breaker()
    for _ in range(5):
        it.failed(0, trial=False)
        it.failed(0, trial=False)
        it.succeeded()
    assert not it.is_open


def test_half_open_lets_one_through():
    it = open_at(0)
    assert it.allows(10)
    assert it.start()
    assert not it.allows(10)
    assert not it.allows(1000)


def test_a_failed_trial_opens_it_again_for_as_long():
    it = open_at(0)
    it.start()
    it.failed(12, trial=True)
    assert not it.allows(21.9)
    assert it.allows(22)


def test_an_answered_trial_closes_it_but_the_next_failure_opens_it():
    it = open_at(0)
    it.start()
    it.answered()
    assert not it.is_open
    assert not it.start()
    it.failed(13, trial=False)
    assert it.is_open


def test_a_whole_reply_after_the_trial_makes_it_as_new():
    it = open_at(0)
    it.start()
    it.answered()
    it.succeeded()
    it.failed(13, trial=False)
    it.failed(13, trial=False)
    assert not it.is_open


def test_an_abandoned_trial_leaves_the_next_call_as_one():
    it = open_at(0)
    it.start()
    it.abandoned()
    assert it.allows(10)
    assert it.start()


def test_late_news_of_calls_from_before_changes_nothing():
    it = open_at(0)
    it.failed(9, trial=False)
    it.succeeded()
    assert it.is_open
    assert it.allows(10)
