"""The commands that ask a running gateway, against a stand-in for its admin API."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from gateway.admin.views import problems
from gateway.cli.main import main
from gateway.cli.output import readable
from gateway.cli.places import admin_key
from gateway.link.messages import Content, ExchangeRecord
from gateway.records.story import story, to_json
from policies.errors import Problem
from tests.gateway.records.examples import CALL, FAILED, RECORD

from .conftest import Admin


def test_status_shows_what_it_is_told(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    admin.answers["GET /status"] = (
        200,
        {"policy": {"version": "abc", "pinned": False}, "workers": [{"worker": 0, "pid": 12}, {"worker": 1, "pid": 13}], "backends": []},
    )
    assert main(["status"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "policy",
        "  version: abc",
        "  pinned: no",
        "workers",
        "  worker  pid",
        "  0       12",
        "  1       13",
        "backends: none",
    ]
    assert admin.asked == [("GET", "/status", f"Bearer {admin_key()}")]


def test_status_shows_what_is_wrong_with_a_policy_as_check_does(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    found = [Problem("policy.yaml", 3, 7, "routes", "no such thing", "try another"), Problem("policy.yaml", 0, 0, "", "it is gone")]
    admin.answers["GET /status"] = (200, {"rejected": {"at": 1e9, "problems": problems(found)}, "pinned": False})
    assert main(["status"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "rejected",
        "  at: 2001-09-09 01:46:40 UTC",
        "  problems",
        "    policy.yaml:3:7: routes: no such thing; try another",
        "    policy.yaml: it is gone",
        "pinned: no",
    ]


def test_status_as_json(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    admin.answers["GET /status"] = (200, {"policy": 1})
    assert main(["status", "--output", "json", "--admin-key", "secret"]) == 0
    assert json.loads(capsys.readouterr().out) == {"policy": 1}
    assert admin.asked[0][2] == "Bearer secret"


def test_rollback_says_what_is_in_force(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    admin.answers["POST /rollback"] = (200, {"version": "abc"})
    assert main(["rollback"]) == 0
    assert capsys.readouterr().out == "policy abc is in force\n"


def test_what_the_gateway_objects_to_is_one_line(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    admin.answers["POST /rollback"] = (409, {"error": {"message": "there is no policy before this one"}})
    assert main(["rollback"]) == 1
    assert capsys.readouterr().err == "headgate rollback: there is no policy before this one\n"
    admin.answers["POST /rollback"] = (401, b"")
    assert main(["rollback"]) == 1
    assert "the admin key is not accepted" in capsys.readouterr().err
    admin.answers["POST /rollback"] = (200, b"<html>")
    assert main(["rollback"]) == 1
    assert "answered 200" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["http://127.0.0.1:1", "not a url", "http://"])
def test_no_gateway_is_one_line(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--admin-url", where]) == 1
    seen = capsys.readouterr()
    assert seen.err.startswith(f"headgate status: no gateway answers at {where}: ")
    assert seen.err.count("\n") == 1


@pytest.mark.parametrize("record", [RECORD, msgspec.structs.replace(RECORD, content=Content(b"asked", b"answered"), calls=(CALL, FAILED))])
def test_an_exchange_is_told(record: ExchangeRecord, admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    admin.answers["GET /exchanges/e%2F1"] = (200, to_json(record) | {"of_a_later_version": 1})
    assert main(["explain", "--exchange", "e/1"]) == 0
    assert capsys.readouterr().out.splitlines() == story(record)
    assert main(["explain", "--exchange", "e/1", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["exchange_id"] == record.exchange_id


def test_an_exchange_that_is_not_there_or_not_understood(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--exchange", "e2"]) == 1
    assert capsys.readouterr().err == "headgate explain: no such thing\n"
    admin.answers["GET /exchanges/e2"] = (200, {"calls": 1})
    assert main(["explain", "--exchange", "e2"]) == 1
    assert "another version" in capsys.readouterr().err


def test_diff_says_what_changes(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = policy.with_name("new.yaml")
    new.write_text(policy.read_text().replace("failover: [small, big]", "failover: [big, small]"))
    assert main(["diff", str(policy), str(new)]) == 0
    assert capsys.readouterr().out == "route chat: failover [small, big] -> [big, small]\n"
    assert main(["diff", str(policy), str(policy)]) == 0
    assert capsys.readouterr().out == "nothing changes\n"


def test_diff_of_a_wrong_policy(policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("version: 2\n")
    assert main(["diff", str(policy), str(wrong)]) == 1
    assert f"{wrong}:1:10: version: " in capsys.readouterr().err


def test_diff_replays_records(policy: Path, admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    def record(number: int, model: str, key: str = "acme") -> dict[str, object]:
        return {"exchange_id": f"e{number}", "endpoint": "chat", "model": model, "stream": False, "key": key}

    admin.answers["GET /exchanges?limit=9"] = (
        200,
        {"exchanges": [record(1, "chat"), record(2, "chat"), record(3, "big", ""), record(4, "nobody")]},
    )
    new = policy.with_name("new.yaml")
    new.write_text(
        policy.read_text().replace("failover: [small, big]", "failover: [big, small]").replace("models: [big]", "models: [large]")
    )
    assert main(["diff", str(policy), str(new), "--replay", "9", "--output", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["replayed"] == 4
    assert answer["moved"] == [
        {"requests": 2, "before": "route chat, small first", "after": "route chat, big first"},
        {"requests": 1, "before": "route big-only, big first", "after": "refused: no such model"},
    ]


def test_readable_takes_any_json() -> None:
    assert readable([1, {"a": [{"b": {"c": 2}}]}, {"d": [[1], 2]}]).splitlines() == [
        "- 1",
        "- a",
        "    - b",
        "        c: 2",
        "- d",
        "    - - 1",
        "    - 2",
    ]
    assert readable(None) == "-"
    assert readable([]) == "none"
    assert readable({"ratio": 0.25, "bytes": 5e9, "in_force_since": 1e9, "names": ["a", "b"], "on": True}).splitlines() == [
        "ratio: 0.25",
        "bytes: 5000000000",
        "in_force_since: 2001-09-09 01:46:40 UTC",
        "names: a, b",
        "on: yes",
    ]


@pytest.mark.parametrize("command", [["status"], ["rollback"], ["explain", "--exchange", "e1"]])
def test_the_data_listener_is_not_taken_for_the_admin_listener(
    command: list[str], admin: Admin, capsys: pytest.CaptureFixture[str]
) -> None:
    admin.headers["x-request-id"] = "r1"
    assert main(command) == 1
    assert f"{admin.url} looks like the data listener of a gateway, not like its admin listener: give that" in capsys.readouterr().err
