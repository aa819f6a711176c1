"""What a request costs the interpreter is held against a budget: the command must be able to say no."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from loadtests import interpreter


def test_what_is_over_its_budget_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(interpreter, "measured", lambda: {"request": 1000.0, "chunk": 0.0})
    assert interpreter.hold() == 1
    assert [line.endswith(": OVER") for line in capsys.readouterr().out.splitlines()] == [True, False]
    monkeypatch.setattr(interpreter, "measured", lambda: {"request": 0.0, "chunk": 0.0})
    assert interpreter.hold() == 0


def test_the_measurement_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "HOLD_ROUNDS", 1)
    found = interpreter.measured()
    budgets = tomllib.loads((Path(interpreter.__file__).parent / "budgets.toml").read_text())["interpreter"]
    assert found.keys() == budgets["interpreted"].keys() == budgets["compiled"].keys()
    assert all(each > 0 for each in found.values())


def test_an_error_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is refused is cheap, and would be within any budget."""
    monkeypatch.setattr(interpreter, "HOLD_ROUNDS", 1)
    monkeypatch.setattr(interpreter, "request", lambda *, stream: b"GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n")
    with pytest.raises(SystemExit, match=r"does not work: b'HTTP/1.1 40"):
        interpreter.measured()
