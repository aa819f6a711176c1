"""The short form: faults of two kinds at once, seeded, under load. The long one is `python -m loadtests.chaos`."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from loadtests.chaos import __main__ as command
from loadtests.chaos.clients import Seen
from loadtests.chaos.faults import BY_NAME, CROSSED, Fault, kill_backend
from loadtests.chaos.site import Generations, Setup
from loadtests.chaos.trial import Outcome, _reckon, trial


async def test_every_promise_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    both = Fault("both", "", Setup(fault="truncate", share=0.2, both_backends=True), kill_backend, pause_s=(0.0, 0.1))
    outcome = await trial(both, seed=7, exchanges=80, clients=8)
    assert outcome.broken == []
    counts = outcome.counts
    assert counts["exchanges"] >= 80
    assert counts["injected"] >= 1
    assert counts["error"] + counts["error_in_stream"] > 0
    assert counts["whole"] + counts["error"] + counts["error_in_stream"] == counts["exchanges"]


@pytest.mark.parametrize("broken", [[], ["3 answers silent"]])
def test_the_command_tells_what_was_injected_and_seen(
    broken: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def tried(fault: Fault, **how: Any) -> Outcome:
        assert how == {"seed": 3, "exchanges": 40, "clients": 4}
        outcome = Outcome(fault.name, broken=broken)
        outcome.injected["truncate by a backend"] = 4_321
        outcome.details["error: 502 backend_error"] = 7
        return outcome

    monkeypatch.setattr(command, "trial", tried)
    code = command.main(["--only", "truncate", "--exchanges", "40", "--clients", "4", "--seed", "3", "--output", "json"])
    assert code == len(broken)
    told = capsys.readouterr()
    (outcome,) = json.loads(told.out)
    assert (outcome["fault"], outcome["injected"]) == ("truncate", {"truncate by a backend": 4_321})
    assert "4321 injected: truncate by a backend" in told.err
    assert "7 error: 502 backend_error" in told.err
    assert ("BROKEN: 3 answers silent" in told.err) == bool(broken)


@pytest.mark.parametrize(("name", "allowed"), [("sigterm", 3 * CROSSED), ("reset", 0)])
def test_so_many_may_be_turned_away_and_no_more(name: str, allowed: int) -> None:
    nothing = Generations(frozenset(), 0, 0, 0, 0)
    for count in (allowed, allowed + 1):
        outcome = Outcome(name)
        _reckon(outcome, BY_NAME[name], [Seen(str(number), False) for number in range(count)], nothing, 0, 0, 3)
        assert outcome.counts["turned_away"] == count
        assert bool(outcome.broken) == (count > allowed)
