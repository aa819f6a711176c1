from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli.main import main


def test_a_right_policy_says_who_answers_what(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(policy)]) == 0
    out = capsys.readouterr().out
    assert f"{policy} is right: version " in out
    assert "1 key" in out
    assert "  gold      model chat and header x-tier gold  ->  big" in out
    assert "  chat      model other or model chat          ->  small, then big" in out
    assert "  small  vllm    my-model  http://127.0.0.1:8000" in out


def test_everything_wrong_is_said_at_once_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\nbackends: [{name: a, kind: vlm, model: m}]\nroutes: [{name: r, matches: [{models: [m]}], backend: b}]\n")
    assert main(["check", str(path)]) == 1
    *problems, last = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{path}:2:28: backends[0].kind: ") and "vllm" in line for line in problems)
    assert any(line.startswith(f"{path}:3:55: routes[0].backend: ") for line in problems)
    assert last == f"{path} is wrong: {len(problems)} problems"


def test_warnings_are_on_stderr_and_do_not_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "version: 1\nbackends: [{name: a, kind: vllm, model: m, replicas: [http://h:1]}]\n"
        "routes:\n  - {name: r, matches: [{models: [m]}], backend: a}\n  - {name: s, matches: [{models: [m, n]}], backend: a}\n"
    )
    assert main(["check", str(path)]) == 0
    seen = capsys.readouterr()
    assert f"warning: {path}:5:" in seen.err
    assert "warning:" not in seen.out


def test_json_alone_on_stdout(policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("version: 2\n")
    assert main(["check", str(policy), str(wrong), "--output", "json"]) == 1
    right, bad = json.loads(capsys.readouterr().out)
    assert right["ok"] is True
    assert right["problems"] == []
    assert right["version"]
    assert bad["ok"] is False
    assert {"file", "line", "column", "path", "message", "hint"} == set(bad["problems"][0])


@pytest.mark.parametrize("make", ["missing", "folder"])
def test_what_cannot_be_read_is_usage(make: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "policy.yaml"
    if make == "folder":
        path.mkdir()
    assert main(["check", str(path)]) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith(f"headgate check: cannot read {path}: ")
    assert seen.err.count("\n") == 1


def test_every_file_is_checked_and_the_worst_counts(policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, missing = tmp_path / "wrong.yaml", tmp_path / "missing.yaml"
    wrong.write_text("version: 2\n")
    assert main(["check", str(missing), str(wrong), str(policy)]) == 2
    seen = capsys.readouterr()
    assert f"headgate check: cannot read {missing}: No such file or directory" in seen.err.splitlines()
    assert f"{wrong} is wrong: " in seen.out
    assert f"{policy} is right: " in seen.out
    assert main(["check", str(policy), str(missing), "--output", "json"]) == 2
    right, unread = json.loads(capsys.readouterr().out)
    assert (right["ok"], unread["ok"]) == (True, False)
    assert unread["problems"][0]["message"] == f"cannot read {missing}: No such file or directory"
    assert main(["check", str(policy), str(wrong)]) == 1


def test_no_secret_is_printed(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", str(policy)])
    main(["check", str(policy), "--output", "json"])
    seen = capsys.readouterr()
    assert "abab" not in seen.out + seen.err
