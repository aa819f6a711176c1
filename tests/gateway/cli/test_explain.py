from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.cli.main import main
from tests.policies.golden import NAMED

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
    assert answer["steps"] == [{"backend": "small", "hold": "held to its first content", "outcome": "answers", "why": ""}]


def test_a_request_that_is_not_streamed_is_answered_whole(policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = tmp_path / "whole.json"
    request.write_text('{"model": "chat", "messages": []}')
    assert explained(capsys, policy, request, "--key", "acme")["steps"] == [
        {"backend": "small", "hold": "whole answer", "outcome": "answers", "why": ""}
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


CASCADE = """\
version: 1
backends:
  - {name: small, kind: vllm, replicas: [http://127.0.0.1:8000, http://127.0.0.1:8001], model: s, evidence: logprobs}
  - {name: big, kind: openai, replicas: [http://127.0.0.1:8002], model: big}
routes:
  - name: chat
    matches: [{models: [chat]}]
    guard: {detector: support, when_ood: to_last, when_unscored: refuse}
    cascade:
      stages: [{backend: small, hold: {tokens: 24, for: 400ms}, defer_when: {score: mean_logprob, below: -0.35}}]
      last: big
      when_last_fails: serve_held
      defer_limit: {percent: 40}
      audit: {accepted_percent: 100, agree: label}
    hedge: {after: p95}
  - name: off
    matches: [{models: [off]}]
    cascade: {stages: [{backend: small, hold: {tokens: 24}, defer_when: {calibration: c}}], last: big}
detectors: [{name: support, artifact: support.npz}]
"""


@pytest.fixture
def cascade(tmp_path: Path) -> Path:
    (tmp_path / "support.npz").write_bytes((NAMED / "detectors" / "support.npz").read_bytes())
    (tmp_path / "c").write_bytes((NAMED / "calibrations" / "disabled.json").read_bytes())
    path = tmp_path / "cascade.yaml"
    path.write_text(CASCADE)
    return path


def lines(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """From the guard on, columns closed up."""
    assert main(["explain", *map(str, arguments)]) == 0
    out = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    return out[out.index("chat taken: matches[0] fits") + 1 :]


HELD = "held for 24 tokens, 400 ms at most, beside another replica after p95"


def test_a_cascade_step_by_step_with_why(cascade: Path, request_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assumed = (cascade, request_file, "--ood", "false", "--scores")
    assert lines(capsys, *assumed, "small=mean_logprob:-0.6") == [
        "guard support: in distribution, as assumed",
        "calls",
        f"1 small {HELD}: answers deferred: mean_logprob is -0.6 against -0.35",
        "2 big held to its first content: answers",
        "verdict big serves it (low_confidence)",
    ]
    assert lines(capsys, *assumed, "small=mean_logprob:-0.1,tokens:24")[2:] == [
        f"1 small {HELD}: answers accepted: mean_logprob is -0.1 against -0.35",
        "verdict small serves it (primary)",
        "after audit: big is asked the same, and the two are compared (label)",
    ]
    assert "when_unscored decides" in lines(capsys, *assumed, "small=truncated")[2]
    assert lines(capsys, *assumed, "small=mean_logprob:-0.6", "--fail", "big=503")[-1] == (
        "verdict small serves it (failover), flagged low confidence"
    )
    limited = lines(capsys, *assumed, "small=mean_logprob:-0.6", "--defer-limited")
    assert "not deferred although -0.6 against -0.35: defer_limit is exceeded" in limited[2]
    assert limited[-1] == "verdict small serves it (primary), flagged low confidence"


def test_an_audit_fails_over_as_the_last_stage_does(cascade: Path, request_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    third = "  - {name: huge, kind: openai, replicas: [http://127.0.0.1:8003], model: huge}\nroutes:"
    text = CASCADE.replace("routes:", third, 1).replace("last: big", "last: {failover: [big, huge]}", 1)
    cascade.write_text(text)
    said = lines(capsys, cascade, request_file, "--ood", "false", "--scores", "small=mean_logprob:-0.1")[-1]
    assert said == "after audit: big (where it fails, huge) is asked the same, and the two are compared (label)"


def test_the_guard_is_asked_about_the_request_itself(cascade: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(REQUEST | {"messages": [{"role": "user", "content": "the mitochondria of a volcano and a sonnet"}]}))
    answer = explained(capsys, cascade, path)
    assert "out of distribution: score" in str(answer["guard"])
    assert (answer["ood"], answer["backend"], answer["reason"], len(answer["steps"])) == ("true", "big", "ood", 1)  # type: ignore[arg-type]
    path.write_text(json.dumps(REQUEST | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]}))
    answer = explained(capsys, cascade, path)
    assert (answer["guard"], answer["ood"], answer["status"]) == ("support: unscored: the request has no text", "unscored", 422)


def test_a_stage_that_is_not_asked_is_shown(cascade: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "off.json"
    path.write_text(json.dumps(REQUEST | {"model": "off"}))
    first, second = explained(capsys, cascade, path)["steps"]  # type: ignore[misc]
    assert (first["backend"], first["hold"], first["why"]) == ("small", "not asked", "passed over: its calibration is disabled")
    assert (second["backend"], second["outcome"]) == ("big", "answers")


def test_check_says_what_decides(cascade: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(cascade)]) == 0
    out = capsys.readouterr().out
    assert "small (defers: mean_logprob below -0.35), then big; guard support, when out of distribution to_last; hedged to replica" in out


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("small=mean_logprobs:-1", "'mean_logprobs:-1' is no score"),
        ("small=entropy:much", "entropy needs a number, not 'much'"),
        ("tiny=entropy:1", "there is no backend 'tiny'"),
    ],
)
def test_scores_that_cannot_be_assumed(
    word: str, message: str, cascade: Path, request_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(cascade), str(request_file), "--scores", word]) == 2
    assert f"--scores: {message}" in capsys.readouterr().err


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
