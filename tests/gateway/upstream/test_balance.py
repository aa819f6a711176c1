from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.balance import LOAD_BOUND_RATIO, LeastOutstanding, PrefixHash, RoundRobin, seed


class Loaded:
    def __init__(self, url: str, outstanding: int = 0) -> None:
        self.url = url
        self.outstanding = outstanding
        self.seed = seed(url)


def replicas(*loads: int) -> list[Loaded]:
    return [Loaded(f"http://r{index}:8000", load) for index, load in enumerate(loads)]


def test_least_outstanding_takes_the_least():
    assert LeastOutstanding().choose(replicas(3, 1, 2), 0) == 1


def test_equals_take_turns():
    it = LeastOutstanding()
    assert Counter(it.choose(replicas(0, 0, 0), 0) for _ in range(30)) == {0: 10, 1: 10, 2: 10}
    assert Counter(it.choose(replicas(1, 0, 0), 0) for _ in range(30)).keys() == {1, 2}


def test_round_robin():
    it = RoundRobin()
    assert [it.choose(replicas(9, 0, 0), 0) for _ in range(4)] == [0, 1, 2, 0]
    assert it.choose(replicas(0), 0) == 0


def test_a_prefix_stays_where_it_is():
    it = PrefixHash()
    four = replicas(0, 0, 0, 0)
    assert len({it.choose(four, 12345) for _ in range(20)}) == 1
    assert it.choose(four, 12345) == PrefixHash().choose(four, 12345)


def test_prefixes_spread_evenly():
    four = replicas(0, 0, 0, 0)
    counts = Counter(PrefixHash().choose(four, affinity) for affinity in range(1, 4001))
    assert all(850 < count < 1150 for count in counts.values())


def test_a_replica_that_goes_moves_only_its_own_prefixes():
    four = replicas(0, 0, 0, 0)
    it = PrefixHash()
    for affinity in range(1, 500):
        before = four[it.choose(four, affinity)]
        if before is not four[2]:
            three = [four[0], four[1], four[3]]
            assert three[it.choose(three, affinity)] is before


def test_a_popular_prefix_does_not_drown_one_replica():
    four = replicas(0, 0, 0, 0)
    it = PrefixHash()
    for _ in range(400):
        four[it.choose(four, 7)].outstanding += 1
    assert max(replica.outstanding for replica in four) <= math.ceil(LOAD_BOUND_RATIO * 400 / 4)


def test_without_affinity_the_least_busy():
    assert PrefixHash().choose(replicas(3, 0, 3), 0) == 1


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.integers(0, 2**64 - 1))
def test_always_one_of_them(loads, affinity):
    for it in (LeastOutstanding(), RoundRobin(), PrefixHash()):
        assert 0 <= it.choose(replicas(*loads), affinity) < len(loads)
