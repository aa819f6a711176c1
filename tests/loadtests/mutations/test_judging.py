"""Mutated messages: what the command reports, and that it can say no."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest

from loadtests.mutations import requests, responses
from loadtests.mutations.__main__ import SIDES, main, run
from loadtests.mutations.judging import Case, Outcome, judge, mutant

LINES = {"request": requests.LINES, "response": responses.LINES}
SEEDS = {"request": requests.SEEDS, "response": tuple(data for _, data in responses.SEEDS)}
both = pytest.mark.parametrize("side", list(SIDES))


@both
def test_mutants_follow_from_the_seed(side: str) -> None:
    one, other = (
        [mutant(seed, chance, LINES[side], SEEDS[side]) for seed in SEEDS[side]] for chance in (random.Random(3), random.Random(3))
    )
    assert one == other
    assert one != list(SEEDS[side])
    assert SIDES[side].case(random.Random(3)) == SIDES[side].case(random.Random(3))


@both
def test_a_seeded_second_has_no_fault(side: str) -> None:
    found = run(SIDES[side], 1.0, 7)
    assert found["faults"] == {}
    assert found["mutants"] > 100


def theirs(answer: Callable[[], Outcome]) -> Callable[[object, Case], Outcome]:
    return lambda self, case: answer()


@pytest.mark.parametrize(
    ("side", "kind", "word"), [("request", requests.Requests, "request"), ("response", responses.Responses, "response")], ids=list(SIDES)
)
def test_a_difference_that_is_not_argued_is_a_fault(
    side: str, kind: type, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kind, "theirs", theirs(lambda: ("refused", "it is Saturday", 0, {}, b"", False, b"", b"")))
    assert main(["--side", side, "--seconds", "0.2"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert list(found) == [side]
    assert f"{word}, h11 refused: it is Saturday" in found[side]["faults"]


@both
def test_a_reader_that_raises_is_a_fault(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises() -> Outcome:
        raise RuntimeError("broken")

    monkeypatch.setattr(type(SIDES[side]), "theirs", theirs(raises))
    assert list(run(SIDES[side], 0.2, 1)["faults"]) == ["raised: RuntimeError('broken')"]


@both
def test_a_reader_whose_reading_depends_on_the_cuts_is_a_fault(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = type(SIDES[side]).ours
    monkeypatch.setattr(
        type(SIDES[side]), "ours", lambda self, case, cuts=(), **how: ("waiting",) if cuts else whole(self, case, cuts, **how)
    )
    case = Case(SEEDS[side][0], SEEDS[side][0], b"GET")
    found = judge(SIDES[side], case, random.Random(1))
    assert (found.kind, found.detail, found.fault) == ("pieces", f"{side} whole, waiting in pieces", True)


def test_both_sides_share_the_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "0.4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["request", "response"]
    assert sum(each["cpu_s"] for each in found.values()) < 1
