from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.cli.main import main

REQUEST = {"model": "chat", "messages": [{"role": "user", "content": "Where is my parcel?"}], "stream": True}


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(REQUEST))
    return path


def explained(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, object]:
    assert main(["explain", *map(str, arguments), "--output", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert isinstance(answer, dict)
    return answer


def test_each_step_and_why(policy: Path, request_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(policy), str(request_file), "--key", "acme", "--fail", "small=connect"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "request   chat for 'chat', streamed, key acme",
        "routes",
        "  gold  passed:  the headers do not fit",
        "  chat  taken:   matches[1] fits",
        "segments  tenant=acme",
        "unit      acme",
        "calls",
        "  1  small  held to its first content:  fails: connect",
        "  2  big    held to its first content:  answers",
        "verdict   big serves it (failover)",
    ]


def test_as_json(policy: Path, request_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = explained(capsys, policy, request_file, "--key", "acme")
    assert (answer["route"], answer["backend"], answer["reason"], answer["status"]) == ("chat", "small", "primary", 200)
    assert answer["steps"] == [{"backend": "small", "hold": "held to its first content", "outcome": "answers"}]


def test_a_request_that_is_not_streamed_is_answered_whole(policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = tmp_path / "whole.json"
    request.write_text('{"model": "chat", "messages": []}')
    assert explained(capsys, policy, request, "--key", "acme")["steps"] == [
        {"backend": "small", "hold": "whole answer", "outcome": "answers"}
    ]


def test_a_header_changes_the_route(policy: Path, request_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = explained(capsys, policy, request_file, "--key", "acme", "--header", "X-Tier=gold")
    assert answer["route"] == "gold"


def test_when_all_fail_the_client_gets_the_last_error(policy: Path, request_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = explained(capsys, policy, request_file, "--key", "acme", "--fail", "small=503", "--fail", "big=timeout_first_token")
    assert (answer["status"], answer["backend"]) == (504, None)
    assert "backend big" in str(answer["verdict"])


def test_a_request_at_fault_is_not_tried_elsewhere(policy: Path, request_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = explained(capsys, policy, request_file, "--key", "acme", "--fail", "small=400")
    assert len(answer["steps"]) == 1  # type: ignore[arg-type]
    assert answer["status"] == 400


def test_a_key_that_may_not(policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "big.json"
    path.write_text(json.dumps(REQUEST | {"model": "big"}))
    answer = explained(capsys, policy, path, "--key", "acme")
    assert answer["status"] == 403
    assert answer["considered"][-1] == {"route": "big-only", "taken": False, "why": "key acme may not use it"}  # type: ignore[index]


def test_a_model_that_is_not_there(policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps(REQUEST | {"model": "nobody"}))
    assert explained(capsys, policy, path, "--key", "acme")["status"] == 404


def test_a_field_that_the_backend_must_not_get(policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "denied.json"
    path.write_text(json.dumps(REQUEST | {"chat_template": "{{ evil }}"}))
    answer = explained(capsys, policy, path, "--key", "acme")
    assert answer["status"] == 400
    assert "chat_template" in str(answer["verdict"])


def test_the_request_from_stdin(policy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(json.dumps(REQUEST).encode())))
    assert explained(capsys, policy, "-", "--key", "acme")["route"] == "chat"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give a policy and a request, or --exchange ID"),
        (["POLICY", "REQUEST"], 2, "the policy asks for a key: give one with --key (acme)"),
        (["POLICY", "REQUEST", "--key", "bob"], 2, "the policy has no key 'bob'; it has acme"),
        (["POLICY", "REQUEST", "--key", "acme", "--fail", "small"], 2, "--fail takes NAME=VALUE, not 'small'"),
        (["POLICY", "REQUEST", "--key", "acme", "--fail", "smal=503"], 2, "--fail: there is no backend 'smal'; there are small, big"),
        (["POLICY", "REQUEST", "--key", "acme", "--fail", "small=200"], 2, "--fail: '200' is no way to fail"),
        (["POLICY", "/nope.json", "--key", "acme"], 2, "cannot read /nope.json: No such file or directory"),
        (["POLICY", "POLICY", "--key", "acme"], 1, "the request is refused with 400: The request body is not JSON"),
        (["POLICY", "--exchange", "e1"], 2, "--exchange asks the running gateway: give no policy with it"),
    ],
)
def test_what_cannot_be_explained(
    arguments: list[str], code: int, message: str, policy: Path, request_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"POLICY": str(policy), "REQUEST": str(request_file)}
    assert main(["explain", *(places.get(word, word) for word in arguments)]) == code
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith(f"headgate explain: {message}")
