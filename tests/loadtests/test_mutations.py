"""Mutated requests: what the command reports, and that it can say no."""

from __future__ import annotations

import random

import pytest

from loadtests import mutations
from loadtests.mutations import SEEDS, difference, judge, main, mutant, ours, run, theirs

GET = SEEDS[0]


def test_readers_agree_on_what_is_well_formed() -> None:
    for seed in SEEDS:
        assert judge(seed, seed, random.Random(1)) == ("", "", False), seed


def test_mutants_follow_from_the_seed() -> None:
    one, other = ([mutant(seed, random.Random(3)) for seed in SEEDS] for _ in range(2))
    assert one == other
    assert one != list(SEEDS)


@pytest.mark.parametrize(
    ("changed", "what"),
    [(b"PUT", "method"), (b"/other", "target"), (b"Host: g", "headers")],
)
def test_what_two_readers_may_differ_in(changed: bytes, what: str) -> None:
    parts = {b"PUT": b"GET", b"/other": b"/", b"Host: g": b"Host: h"}
    assert difference(ours(GET, []), theirs(GET.replace(parts[changed], changed, 1))) == what


def test_a_difference_that_is_not_argued_is_a_fault(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(mutations, "theirs", lambda data: ("refused", "it is Saturday"))
    assert main(["--seconds", "0.2"]) == 1
    assert "it is Saturday" in capsys.readouterr().out


def test_a_reader_that_raises_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(data: bytes) -> mutations.Outcome:
        raise RuntimeError("broken")

    monkeypatch.setattr(mutations, "theirs", raises)
    assert list(run(0.2, 1)["faults"]) == ["raised: RuntimeError('broken')"]


def test_a_seeded_second_has_none() -> None:
    found = run(1.0, 7)
    assert found["faults"] == {}
    assert found["mutants"] > 100
