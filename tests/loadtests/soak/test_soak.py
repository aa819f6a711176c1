"""The short form of the soak; the long one is `python -m loadtests.soak --minutes 30`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import cast

import pytest

from loadtests.soak.__main__ import STAGES, main
from loadtests.soak.steady import Ledger, broken, hashed
from loadtests.soak.watch import Memory
from tests.e2e.gateway import Gateway


@pytest.mark.parametrize("stage", STAGES)
def test_a_short_soak_breaks_nothing(stage: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    code = main(["--minutes", "0.03", "--only", stage, "--output", "json"])
    found = json.loads(capsys.readouterr().out)[stage]
    assert found["broken"] == []
    assert code == 0
    if stage == "steady":
        assert found["on_record"] == found["told"] == sum(found["answers"].values()) > 10
        assert set(found["disturbed"]) == {"reloads", "backend restarts"}
    elif stage == "open":
        assert found["open_at_once"] == found["whole"] == found["streams"]
    elif stage == "overload":
        assert found["refused"] > 0


def report(**after: int) -> dict[str, object]:
    held = {"descriptors": 10, "tasks": 2}
    return {
        "minutes": 30.0,
        "held_before": dict.fromkeys(("worker", "controller"), held),
        "held_after": dict.fromkeys(("worker", "controller"), held | after),
        "memory_kib_per_minute": {"worker": 3.0, "controller": 100.0},
    }


def test_what_a_soak_must_not_show() -> None:
    ledger = Ledger()
    ledger.exchanges, ledger.sum = 1, hashed("a")
    assert broken(report(), ledger, (1, hashed("a")), 0, 1) == ["the memory of the controller grows by 100.0 KiB a minute"]
    assert "not the same ones" in broken(report(), ledger, (1, hashed("b")), 0, 1)[0]
    assert "the worker has 3 tasks, and had 2 before" in broken(report(tasks=3), ledger, (1, hashed("a")), 0, 1)
    ledger.verdicts["silent"] = 2
    assert broken(report(), ledger, (1, hashed("a")), 3, 2)[:3] == [
        "2 answers silent",
        "3 requests generated twice",
        "2 snapshots of the policy are alive",
    ]


def test_the_slope_of_memory_is_of_the_second_half() -> None:
    memory = Memory(cast(Gateway, None))
    assert memory.kib_per_minute("worker") == 0.0
    memory.samples["worker"] = [(float(second), 9e9 if second < 4 else 2048.0 * second) for second in range(8)]
    assert memory.kib_per_minute("worker") == pytest.approx(120.0)


def test_the_folder_that_is_injected_has_nothing_else_to_import() -> None:
    import loadtests.chaos.site as site

    assert [each.name for each in Path(site.INJECT).iterdir() if each.suffix == ".py"] == ["sitecustomize.py"]
