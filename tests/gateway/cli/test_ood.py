"""`headgate fit ood` and `headgate score ood`, from files to files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli.main import main
from tests.policies.ood.generated import examples, outsiders


def write(path: Path, lines: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ood")
    train = write(folder / "train.jsonl", [{"text": each.text, "label": each.label} for each in examples(160, 1)])
    held = [{"messages": [{"role": "user", "content": each.text}], "segment": each.segment} for each in examples(450, 2, segments=True)]
    holdout = write(folder / "holdout.jsonl", held)
    assert main(["fit", "ood", "--train", train, "--holdout", holdout, "--out", str(folder / "d.npz"), "--output", "json"]) == 0
    return folder


def test_a_text_a_line_comes_out(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    inside = examples(1, 3)[0].text
    lines: list[dict[str, object]] = [{"text": inside, "segment": "even"}, {"text": outsiders(1, 4)[0]}, {"messages": image}]
    texts = write(fitted / "x.jsonl", lines)
    assert main(["score", "ood", "--detector", str(fitted / "d.npz"), "--texts", texts, "--output", "json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["ood"] for row in rows] == [False, True, None]
    assert [row["status"] for row in rows] == ["ok", "ok", "unavailable"]
    assert rows[0]["score"] < rows[1]["score"]
    assert rows[2] == {"energy": None, "score": None, "ood": None, "status": "unavailable"}
    assert main(["score", "ood", "--detector", str(fitted / "d.npz"), "--texts", texts]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "unavailable"


def test_the_report_and_the_picture(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, held = fitted / "train.jsonl", fitted / "holdout.jsonl"
    held.write_text(held.read_text() + train.read_text().splitlines()[0] + "\n")
    out = fitted / "again.npz"
    assert main(["fit", "ood", "--train", str(train), "--holdout", str(held), "--out", str(out), "--output", "json"]) == 0
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert report["train_texts"] == 160
    assert report["holdout_texts"] == 450
    assert report["holdout_texts_trained_on"] == 1
    low, high = report["threshold"]["kept_percent_90_interval"]
    assert low < 95 < high
    assert set(report["segments"]) == {"even", "odd"}
    assert "500 or more" in told.err
    assert (fitted / "again.svg").read_text().startswith("<svg ")
    assert out.read_bytes() == (fitted / "d.npz").read_bytes()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", ":1: "),
        ('{"label": "a"}', ':1: a line needs "text" or "messages", and not both'),
        ('{"text": 3}', ":1: Expected"),
        ('{"text": "a"}', "1 training texts that are not blank"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(line + "\n")
    held = write(tmp_path / "held.jsonl", [{"text": each.text} for each in examples(30, 2)])
    assert main(["fit", "ood", "--train", str(path), "--holdout", held, "--out", str(tmp_path / "d.npz")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "d.npz").exists()


def test_what_would_be_in_vain_is_refused_before_the_fit(
    fitted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cli.fit.fit", lambda *args, **kwargs: pytest.fail("minutes were spent"))
    train, held = str(fitted / "train.jsonl"), str(fitted / "holdout.jsonl")
    few = write(fitted / "few.jsonl", [{"text": " "}, *({"text": each.text} for each in examples(18, 2))])
    for holdout, out, message in (
        (train, fitted / "d.npz", "at least 19 held-out texts, and there are 0: 160 of --holdout are in --train, too"),
        (few, fitted / "d.npz", "at least 19 held-out texts, and there are 18\n"),
        (held, fitted / "none" / "d.npz", f"cannot write {fitted / 'none' / 'd.npz'}: there is no folder {fitted / 'none'}"),
        (held, fitted, f"cannot write {fitted}: it is a folder"),
    ):
        assert main(["fit", "ood", "--train", train, "--holdout", holdout, "--out", str(out)]) == 2
        assert message in capsys.readouterr().err


def test_a_detector_that_is_not_there_or_truncated(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = str(fitted / "train.jsonl")
    assert main(["score", "ood", "--detector", str(tmp_path / "none.npz"), "--texts", texts]) == 2
    short = tmp_path / "short.npz"
    short.write_bytes((fitted / "d.npz").read_bytes()[:5000])
    assert main(["score", "ood", "--detector", str(short), "--texts", texts]) == 1
    told = capsys.readouterr()
    assert "truncated, damaged or not a detector" in told.err
    assert told.out == ""
