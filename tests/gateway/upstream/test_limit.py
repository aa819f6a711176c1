from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.limit import Limit
from policies.schema import Concurrency


def limit(places: int, seats: int, workers: int = 1) -> Limit[str]:
    return Limit(Concurrency(limit=places, queue=seats), workers)


def test_fills_places_then_seats_then_refuses():
    it = limit(2, 1)
    assert [it.enter(name) for name in "abcd"] == ["go", "go", "wait", "full"]


def test_a_freed_place_is_the_first_waiters():
    it = limit(1, 3)
    for name in "abcd":
        it.enter(name)
    assert [it.leave(), it.leave(), it.leave(), it.leave()] == ["b", "c", "d", None]
    assert it.in_flight == 0


def test_who_gives_up_is_passed_over():
    it = limit(1, 3)
    for name in "abcd":
        it.enter(name)
    it.give_up("b")
    it.give_up("b")
    assert it.leave() == "c"


@pytest.mark.parametrize(("workers", "places", "seats"), [(1, 256, 512), (3, 85, 170), (4, 64, 128), (1000, 1, 1), (0, 256, 512)])
def test_the_machines_limit_is_divided(workers, places, seats):
    it = limit(256, 512, workers)
    assert (it.places, it.seats) == (places, seats)


def test_without_a_queue_no_share_of_one():
    assert limit(1, 0, 4).seats == 0


def test_a_larger_share_lets_waiters_in():
    it = limit(4, 8, workers=4)
    for name in "abcdef":
        it.enter(name)
    assert it.waiting == 2
    assert it.set_share(2) == ["b"]
    assert it.in_flight == 2


def test_a_smaller_share_stops_nobody_but_admits_nobody():
    it = limit(4, 8)
    for name in "abcde":
        it.enter(name)
    assert it.set_share(4) == []
    assert [it.leave(), it.leave(), it.leave()] == [None, None, None]
    assert it.leave() == "e"


@given(st.lists(st.sampled_from(["enter", "leave", "give_up", "share1", "share3"]), max_size=60))
def test_laws(steps):
    """Never more in flight than places (unless the share shrank); nobody waits while a place is free; first come, first served."""
    it: Limit[int] = Limit(Concurrency(limit=3, queue=4))
    waiting: list[int] = []
    shrunk = False
    for number, step in enumerate(steps):
        if step == "enter":
            entry = it.enter(number)
            if entry == "wait":
                waiting.append(number)
            assert (entry == "full") <= (it.waiting == it.seats or it.waiting > it.seats)
        elif step == "leave" and it.in_flight:
            if (woken := it.leave()) is not None:
                assert woken == waiting.pop(0)
        elif step == "give_up" and waiting:
            it.give_up(waiting.pop())
        elif step.startswith("share"):
            before = it.places
            woken_all = it.set_share(int(step[-1]))
            assert woken_all == waiting[: len(woken_all)]
            del waiting[: len(woken_all)]
            shrunk = shrunk or it.places < before
        assert it.waiting == len(waiting)
        assert shrunk or it.in_flight <= it.places
        assert not waiting or it.in_flight >= it.places
