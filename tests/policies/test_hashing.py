import json
from pathlib import Path

import pytest

from policies.hashing import BUCKETS, Hash, bucket, sample

VECTORS = json.loads((Path(__file__).parent.parent / "golden" / "hashing" / "buckets.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["sha256"], ids=lambda v: f"{v['salt']}:{v['unit']}"[:40])
def test_buckets_are_the_published_ones(vector: dict[str, str | int]) -> None:
    assert bucket(str(vector["salt"]), str(vector["unit"])) == vector["bucket"]


@pytest.mark.parametrize("vector", VECTORS["md5_mod_100"], ids=lambda v: v["unit"][:40])
def test_md5_buckets_are_the_published_ones(vector: dict[str, str | int]) -> None:
    assert bucket("any salt", str(vector["unit"]), "md5_mod_100") == vector["bucket"]


@pytest.mark.parametrize(("hash", "count"), [("sha256", BUCKETS), ("md5_mod_100", 100)])
def test_buckets_spread_evenly(hash: Hash, count: int) -> None:
    drawn = [bucket("salt", f"user-{i}", hash) for i in range(20_000)]
    assert min(drawn) >= 0
    assert max(drawn) < count
    tenths = [sum(1 for b in drawn if b * 10 // count == tenth) for tenth in range(10)]
    assert max(abs(n - 2_000) for n in tenths) < 200  # nearly five standard deviations


def test_another_salt_is_another_order() -> None:
    assert [bucket("a", f"u{i}") for i in range(50)] != [bucket("b", f"u{i}") for i in range(50)]


@pytest.mark.parametrize("percent", [0.5, 20, 99.5])
def test_a_sample_is_the_share_that_was_asked_for(percent: float) -> None:
    taken = sum(sample(f"x-{i}", "audit", percent) for i in range(20_000)) / 200
    assert taken == pytest.approx(percent, abs=1.0)


def test_all_and_nothing_are_exact() -> None:
    assert all(sample(f"x-{i}", "audit", 100) for i in range(2_000))
    assert not any(sample(f"x-{i}", "audit", 0) for i in range(2_000))


def test_a_larger_sample_holds_the_smaller_one() -> None:
    assert all(sample(f"x-{i}", "audit", 20) for i in range(2_000) if sample(f"x-{i}", "audit", 5))


def test_two_rules_sample_independently() -> None:
    both = sum(sample(f"x-{i}", "audit", 50) and sample(f"x-{i}", "shadow", 50) for i in range(4_000))
    assert both == pytest.approx(1_000, abs=150)
