"""`headgate calibrate cascade`, from lines on disk to a file that a policy may name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli.main import main
from policies import calibrated
from policies.deferral import FEATURES
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
    assert [Path(name).name for name in report["files"]] == ["calibration.curve.json", "calibration.curve.png", "calibration.json"]
    points = json.loads((tmp_path / "calibration.curve.json").read_bytes())["points"]
    assert len(points) > 10


def test_what_no_policy_will_take_is_said_at_once(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(files) == 0
    assert capsys.readouterr().err == "", "no file, nothing to warn of"
    out = str(tmp_path / "calibration.json")
    assert main([*files, "--out", out, "--output", "json"]) == 0
    made, said = calibrated.read(Path(out).read_bytes()), capsys.readouterr().err
    foreign = [feature for feature in made.model.features if feature not in FEATURES]
    assert foreign, "these lines have features of their own"
    assert f"warning: no policy can go by it: it has learned from {', '.join(foreign)}, which" in said
    assert "warning: no policy can go by it: it is for no backend; --backend NAME" in said
    assert "warning: it judges whole replies, as hold: all does" in said
    data = tmp_path / "evidence.jsonl"
    sure = [{"evidence": {"logprobs": [-0.1 * (n % 7)] * 8}, "quality": {"small": n % 7 < 5, "large": True}} for n in range(200)]
    data.write_text("".join(json.dumps(line) + "\n" for line in sure).replace("true", "1").replace("false", "0"))
    bound = ["--backend", "small", "--prefix-tokens", "8"]
    assert main(["calibrate", "cascade", "--data", str(data), "--cost", "small=0.2,large=1", "--out", out, *bound]) == 0
    assert "warning" not in capsys.readouterr().err


def test_lines_that_the_score_was_learned_on_certify_nothing(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "--train", files[3]]) == 1
    assert "--train and --data have the same lines" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_noticed_before_the_work(
    files: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policies.calibration.procedure.calibrate", lambda *args: pytest.fail("the work was done"))
    assert main([*files, "--out", "/nowhere/calibration.json"]) == 1
    assert "cannot write /nowhere/calibration.json: there is no folder /nowhere" in capsys.readouterr().err


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
