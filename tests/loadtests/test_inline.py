"""What a text costs where: every kind is a text of new words, and what is left to the process is told."""

from __future__ import annotations

import random

import pytest

from loadtests import inline
from policies.ood.artifact import loads
from policies.ood.energy import Scorer
from policies.ood.features import words_in


@pytest.mark.parametrize("table", [False, True])
def test_a_made_up_detector_scores(table: bool) -> None:
    head = inline.made_up(loads(inline.DEMO.read_bytes()).head, table=table)
    found = Scorer(head).score(inline.WARM)
    assert (found.status, head.classes, bool(head.vocabulary)) == ("ok", inline.CLASSES, table)


def test_no_two_texts_of_a_kind_are_alike() -> None:
    for kind, make in inline.KINDS.items():
        rng = random.Random(kind)
        assert not {*words_in(make(rng))[-1:]} & {*words_in(make(rng))[-1:]}, kind


def test_it_tells_what_is_left_to_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline, "TEXTS", 2)
    monkeypatch.setattr(inline, "SHARES", (1, 4))
    head = loads(inline.DEMO.read_bytes()).head
    found = inline.kinds(head)
    assert {kind: each["left_to_the_process"] for kind, each in found.items()} == {
        kind: 0 if "number of" in kind or "four" in kind else 2 for kind in inline.KINDS
    }
    shares = inline.left(head, ["a new word", " ".join(map(str, range(200))), "a word", "a new"])
    assert shares == {"1-1": 0.0, "2-4": 33.3}
    told = inline.table({"demo": {"kinds": found, "left_to_the_process_percent": shares}})
    assert "CLINC150 left to the process: 1-1: 0.0 %" in told
