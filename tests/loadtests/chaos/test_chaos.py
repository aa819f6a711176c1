"""The short form: a few faults, seeded, under load. The long one is `python -m loadtests.chaos`."""

from __future__ import annotations

import json
import os

import pytest

from loadtests.chaos.__main__ import main
from loadtests.chaos.faults import BY_NAME
from loadtests.chaos.trial import trial


@pytest.fixture(autouse=True)
def _own_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.getcwd())


@pytest.mark.parametrize("name", ["kill-backend", "reset"])
async def test_every_promise_is_kept(name: str) -> None:
    outcome = await trial(BY_NAME[name], seed=7, exchanges=80, clients=8)
    assert outcome.broken == []
    assert outcome.counts["exchanges"] >= 80
    assert outcome.counts["injected"] >= 1
    assert outcome.counts["whole"] + outcome.counts["error"] + outcome.counts["error_in_stream"] == outcome.counts["exchanges"]


def test_the_command_tells_what_was_injected_and_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "truncate", "--exchanges", "40", "--clients", "4", "--seed", "3", "--output", "json"]) == 0
    told = capsys.readouterr()
    (outcome,) = json.loads(told.out)
    assert outcome["counts"]["error"] + outcome["counts"]["error_in_stream"] >= outcome["counts"]["injected"] > 0  # or a breaker is open
    assert "injected: truncate by a backend" in told.err
