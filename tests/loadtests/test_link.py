"""The short form of the link's benchmark; the long one is `python -m loadtests.link`."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from loadtests import link


def test_what_a_record_costs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(link, "RECORDS", 400)
    monkeypatch.setattr(link, "ROUNDS", 1)
    assert link.main(["--only", "cost"]) == 0
    found = json.loads(capsys.readouterr().out)["cost"]
    assert set(found) == {"batches of 400", "batches of 50"}
    assert all(each["worker_us"] > 0 and each["controller_us"] > 0 and 200 < each["bytes"] < 1000 for each in found.values())


def test_a_stopped_controller_costs_nobody_anything(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    assert link.main(["--only", "stopped", "--seconds", "0.3"]) == 0
    found = json.loads(capsys.readouterr().out)["stopped"]
    assert (found["broken"], found["dropped"]) == ([], 0)
    assert found["on_record"] > found["stopped"]["requests"] > 0


def test_what_is_broken_fails_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def behaviour(state: str, seconds: float) -> dict[str, Any]:
        return {"broken": [f"{state} for {seconds:g} s"]}

    monkeypatch.setattr(link, "behaviour", behaviour)
    assert link.main(["--only", "dead", "--seconds", "2"]) == 1
    assert json.loads(capsys.readouterr().out) == {"dead": {"broken": ["dead for 2 s"]}}
