"""`headgate calibrate cascade`, from lines on disk to a file that a policy may name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli.main import main
from policies import calibrated
from tests.policies.calibration.lines import traffic


def write(path: Path, lines: int, seed: int, *, hopeless: bool = False) -> str:
    pairs = traffic(lines, seed, hopeless=hopeless)
    with path.open("w", encoding="utf-8") as out:
        for index in range(lines):
            # Only the difference counts: either model may be the one that was right.
            loss = float(pairs.loss[index])
            quality = {"small": float(loss <= 0), "large": float(loss >= 0)}
            out.write(json.dumps({"features": pairs.row(index), "quality": quality}) + "\n")
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    data, train = write(tmp_path / "pairs.jsonl", 1_500, 1), write(tmp_path / "others.jsonl", 1_500, 2)
    return ["calibrate", "cascade", "--data", data, "--train", train, "--epsilon", "0.02", "--cost", "small=0.2,large=1"]


def test_round_trip(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held, out = write(tmp_path / "held.jsonl", 2_000, 3), tmp_path / "calibration.json"
    assert main([*files, "--out", str(out), "--evaluate", held, "--output", "json", "--backend", "small", "--prefix-tokens", "24"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["enabled"] is True
    assert set(report["evaluation"]) >= {"deferred", "loss", "saving"}
    assert report["evaluation"]["saving"] == pytest.approx(0.8 - report["evaluation"]["deferred"])
    made = calibrated.read(out.read_bytes())
    assert (made.promise, made.threshold) == (report["promise"], report["threshold"])
    assert (made.binding.backend, made.binding.prefix_tokens) == ("small", 24)
    rows = [json.loads(line)["features"] for line in Path(held).read_text(encoding="utf-8").splitlines()]
    assert sum(made.defers(row) is True for row in rows) / len(rows) == pytest.approx(report["evaluation"]["deferred"])
    assert all(Path(name).stat().st_size > 100 for name in report["files"])
    assert {Path(name).suffix for name in report["files"]} >= {".json"}
    points = json.loads((tmp_path / "calibration.curve.json").read_bytes())["points"]
    assert len(points) > 10


def test_people_are_told_the_promise(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(files) == 0
    said = capsys.readouterr().out
    assert "With 95 % confidence the cascade's mean quality is at most 2 points below" in said
    assert "at least" in said


def test_a_hopeless_pair_is_said_to_be_disabled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "pairs.jsonl", 600, 1, hopeless=True)
    assert main(["calibrate", "cascade", "--data", data, "--cost", "small=0.2,large=1", "--evaluate", data]) == 0
    said = capsys.readouterr().out
    assert "The cascade is disabled" in said
    assert "saving 0.0%" in said


@pytest.mark.parametrize(
    ("extra", "code", "said"),
    [
        (["--cost", "small=1"], 2, "small and large"),
        (["--cost", "small=a,large=1"], 2, "NUMBER"),
        (["--epsilon", "0"], 2, "epsilon"),
        (["--confidence", "1"], 2, "confidence"),
        (["--from", "records"], 2, "--data has no meaning with --from records"),
        (["--train", "/nowhere.jsonl"], 1, "cannot read /nowhere.jsonl"),
        (["--out", "/nowhere/calibration.json"], 1, "cannot write"),
    ],
)
def test_what_cannot_be_done_is_said(files: list[str], extra: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, *extra]) == code
    assert said in capsys.readouterr().err


def test_bad_lines_are_named_by_their_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"quality": {"small": 0, "large": 1}}\nnonsense\n{"quality": {"small": 3, "large": 1}}\n', encoding="utf-8")
    assert main(["calibrate", "cascade", "--data", str(path), "--cost", "small=0.2,large=1"]) == 1
    said = capsys.readouterr().err
    assert f"{path}:2: " in said
    assert f"{path}:3: quality.small" in said
