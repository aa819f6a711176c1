"""A run as a picture: what is drawn of it, and what is said where that cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadtests import drawing, plots


def figure(median: float, spread: float = 0.0) -> dict[str, float]:
    return {"median": median, "min": median - spread, "max": median + spread}


def found() -> dict[str, Any]:
    ours = {"us": figure(60, 5), "worker_us": figure(50), "controller_us": figure(12), "other_us": figure(0)}
    peers = {"nginx": {"us": figure(20)}, "litellm": {"us": figure(9_000)}, "direct": {"latency_p50_us": figure(1)}}
    memory = {"headgate": {"kib_per_stream": figure(15), "worker_kib_per_stream": figure(12)}, "nginx": {"kib_per_stream": figure(18)}}
    return {"scenarios": {"memory": memory, "request-32": {"headgate": ours, **peers}, "stream-256": {"nginx": {"us": figure(10)}}}}


def test_what_is_drawn() -> None:
    request, memory = plots.panels(found())
    assert [each.subject for each in request.bars] == ["nginx", "headgate", "litellm"]
    ours = request.bars[1]
    assert ours.length == pytest.approx(60)
    assert ours.parts["worker"] / ours.parts["controller"] == pytest.approx(50 / 12)
    assert (ours.low, ours.high) == (55, 65)
    assert request.bars[0].parts == {"peer": 20}
    assert request.until == pytest.approx(1.3 * 65), "LiteLLM does not squeeze the others"
    assert request.goal == 2 * 20
    assert memory.bars[0].parts == {"worker": 12, "other": 3}
    assert memory.goal is None


def test_without_its_parts_headgate_is_one_bar() -> None:
    row = {"us": figure(60)}
    (panel,) = plots.panels({"scenarios": {"burst": {"headgate": row}}})
    assert panel.bars[0].parts == {"headgate": 60}


def test_it_is_drawn(tmp_path: Path) -> None:
    if not drawing.can_draw():
        pytest.skip("matplotlib is not installed")
    run, into = tmp_path / "run.json", tmp_path / "images/peers.png"
    run.write_text(json.dumps(found()))
    assert plots.main([str(run), "--into", str(into)]) == 0
    assert into.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps(found()), "pip install 'headgate[plot]'"),
        ("{", "is not what a run has printed"),
        ('{"scenarios": {}}', "none of the scenarios"),
    ],
)
def test_why_nothing_is_drawn(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drawing, "can_draw", lambda: False)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(SystemExit):
        plots.main([str(tmp_path / "run.json"), "--into", str(tmp_path / "peers.png")])
    assert said in capsys.readouterr().err
