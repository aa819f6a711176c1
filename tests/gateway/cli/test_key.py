from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from gateway.cli.main import main
from gateway.cli.output import CommandError
from gateway.cli.places import admin_key, new_key, state_dir, state_home
from policies.load import load


def test_the_hash_is_that_of_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "new", "--output", "json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["key"].startswith("hg-")
    assert hashlib.sha256(made["key"].encode()).hexdigest() == made["sha256"]


def test_what_is_to_be_pasted_is_a_right_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "new", "--name", "acme"]) == 0
    seen = capsys.readouterr()
    digest = seen.out.split()[-1]
    key = seen.out.split()[1]
    assert key not in seen.err
    yaml = seen.err[seen.err.index("keys:") :]
    text = "version: 1\nbackends: [{name: a, kind: vllm, model: m, replicas: [http://h:1]}]\n"
    text += f"routes: [{{name: r, matches: [{{models: [m]}}], backend: a}}]\n{yaml}"
    loaded = load(text.encode(), name="p", read=lambda path: {"keys/acme.sha256": digest.encode()}[path], env={})
    assert loaded.policy.keys[0].sha256 == digest


def test_a_name_that_the_policy_would_refuse_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["key", "new", "--name", "a b"])
    assert "'a b' is no name: letters, digits" in capsys.readouterr().err


def test_keys_are_random_and_long() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) >= 3 + 43 for key in keys)


def test_the_admin_key_is_made_once_and_only_for_the_user() -> None:
    key = admin_key()
    assert admin_key() == key
    assert (state_home() / "admin.key").stat().st_mode & 0o777 == 0o600


def test_an_empty_admin_key_file_is_an_error_not_an_open_door() -> None:
    state_home().mkdir(parents=True)
    (state_home() / "admin.key").write_text("\n")
    with pytest.raises(CommandError, match="is empty"):
        admin_key()


def test_a_folder_in_its_place_is_one_line() -> None:
    (state_home() / "admin.key").mkdir(parents=True)
    with pytest.raises(CommandError, match="cannot read or make the admin key"):
        admin_key()


def test_each_policy_file_has_its_own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = state_dir(tmp_path / "a" / "policy.yaml"), state_dir(tmp_path / "b" / "policy.yaml")
    assert one != other
    assert one.name.startswith("policy-")
    monkeypatch.chdir(tmp_path)
    assert state_dir(Path("a/policy.yaml")) == one
