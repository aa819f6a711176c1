"""`headgate fit ood --pretrained ...` with a tiny package in the place of the extra's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli.main import main
from gateway.scoring import pretrained
from policies.ood import network
from tests.gateway.cli.test_ood import write
from tests.policies.ood.generated import examples, outsiders
from tests.policies.ood.tiny import VOCABULARY, tensors, weights


def package(folder: Path, seed: int = 3) -> Path:
    """A package whose code fails when it is run."""
    model = folder / "tiny_package" / "model"
    model.mkdir(parents=True)
    (folder / "tiny_package" / "__init__.py").write_text("raise RuntimeError\n")
    (model / "model.safetensors").write_bytes(weights(tensors(seed)))
    (model / "vocab.txt").write_text(VOCABULARY, "utf-8")
    return model


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "STEPS_MIN", 40)


@pytest.fixture
def texts(tmp_path: Path) -> tuple[str, str]:
    train = write(tmp_path / "train.jsonl", [{"text": each.text, "label": each.label} for each in examples(160, 1)])
    return train, write(tmp_path / "holdout.jsonl", [{"text": each.text} for each in examples(60, 2)])


def run_fit(texts: tuple[str, str], out: Path, *more: str) -> int:
    return main(["fit", "ood", "--train", texts[0], "--holdout", texts[1], "--out", str(out), "--output", "json", *more])


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pretrained, "PACKAGE", "tiny_package")
    monkeypatch.syspath_prepend(str(tmp_path))
    return package(tmp_path)


def test_the_table_is_taken_where_it_is_installed(
    installed: Path, texts: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, expected in (((), "table"), (("--pretrained", "none"), "none")):
        assert run_fit(texts, tmp_path / "d.npz", *more) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["pretrained"] == expected
        assert ("meaning" in report["pseudo_ood"]["mix"]) is (expected == "table")


def test_scoring_needs_the_encoder_of_the_fit_and_no_table(
    installed: Path, texts: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("table", "encoder"):
        assert run_fit(texts, tmp_path / f"{kind}.npz", "--pretrained", kind) == 0
    lines = write(tmp_path / "x.jsonl", [{"text": examples(1, 3)[0].text}, {"text": outsiders(1, 4)[0]}])
    capsys.readouterr()

    def score(kind: str) -> int:
        return main(["score", "ood", "--detector", str(tmp_path / f"{kind}.npz"), "--texts", lines, "--output", "json"])

    assert score("encoder") == 0
    near, far = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert near["score"] < far["score"]
    (installed / "model.safetensors").write_bytes(weights(tensors(4)))
    assert score("encoder") == 2
    assert "another sentence encoder" in capsys.readouterr().err
    (installed / "model.safetensors").unlink()
    assert score("table") == 0
    capsys.readouterr()
    assert score("encoder") == 2
    assert "No such file" in capsys.readouterr().err


def test_what_is_not_installed_is_said(
    texts: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pretrained, "PACKAGE", "no_such_package")
    assert not pretrained.installed()
    assert run_fit(texts, tmp_path / "d.npz", "--pretrained", "table") == 2
    assert "not installed: pip install 'headgate[ood]'" in capsys.readouterr().err


def test_a_damaged_package_is_said(installed: Path, texts: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (installed / "model.safetensors").write_bytes(b"nothing")
    assert run_fit(texts, tmp_path / "d.npz", "--pretrained", "encoder") == 2
    assert "no safetensors file" in capsys.readouterr().err
