"""`headgate report cascade` and `headgate calibrate cascade --from records`, against a stand-in for the admin API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.cli.main import main
from gateway.control.cascade_report import SAVING, reports
from gateway.control.ledgers import Ledgers
from gateway.link.messages import ExchangeRecord
from gateway.records.story import to_json
from policies import calibrated
from policies.load import Loaded
from tests.gateway.control.audited import accepted, audited_policy, deferred, traffic

from .conftest import Admin

CALIBRATE = ["calibrate", "cascade", "--from", "records", "--route", "chat", "--epsilon", "0.03", "--cost", "small=0.1,large=1"]


def plain(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def serve(admin: Admin, found: Loaded, records: list[ExchangeRecord]) -> None:
    """Have the stand-in answer as a gateway that has served these."""
    ledgers = Ledgers("/nowhere")
    ledgers.in_force(found.policy, found.version, found.files)
    ledgers.take(records)
    audited = [each for each in records if each.audits]
    admin.answers["GET /cascades"] = (200, plain({"cascades": reports(ledgers.look()), "saving": SAVING}))
    admin.answers["GET /policy"] = (200, {"version": found.version, "policy": msgspec.json.decode(found.canonical)})
    half = len(audited) // 2
    admin.answers["GET /audited?route=chat&after=0"] = (200, plain({"exchanges": list(map(to_json, audited[:half])), "next": 77}))
    admin.answers["GET /audited?route=chat&after=77"] = (200, plain({"exchanges": list(map(to_json, audited[half:])), "next": None}))


def test_the_report_says_what_a_cascade_defers_saves_and_loses(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    found = audited_policy(on_violation="tighten")
    good = [accepted(number, found.version) for number in range(1, 700)] + [accepted(2_000, found.version, None, "busy")]
    serve(admin, found, good + [deferred(number, found.version, True) for number in range(1_000, 1_100)])
    assert main(["report", "cascade"]) == 0
    said = capsys.readouterr().out
    for line in (
        "route chat",
        "promise   kept: the loss is at most what was promised",
        "12.5% of them deferred",
        "699 accepted answers, 0 disagree with the last stage's; could not be told: 1 busy",
        "1.00% promised",
        "100 of 100 audited deferred replies agree with the answer",
        "USD); audits cost 6990",
    ):
        assert line in said
    assert main(["report", "cascade", "--output", "json", "--route", "chat"]) == 0
    assert json.loads(capsys.readouterr().out) == admin.answers["GET /cascades"][1]
    assert main(["report", "cascade", "--route", "nowhere"]) == 2
    assert "no route 'nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("follows", "said"), [("alert", "an alert alone"), ("tighten", "tightened, step 1"), ("disable", "disabled: more")]
)
def test_the_report_says_what_has_followed_a_violation(admin: Admin, follows: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = audited_policy(on_violation=follows)
    serve(admin, found, [accepted(number, found.version, number % 10 != 0) for number in range(250)])
    assert main(["report", "cascade"]) == 0
    assert said in capsys.readouterr().out


def test_a_gateway_without_a_cascade_has_nothing_to_report(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    admin.answers["GET /cascades"] = (200, {"cascades": [], "saving": SAVING})
    assert main(["report", "cascade"]) == 0
    assert capsys.readouterr().out == "no route has a cascade\n"


def test_audits_make_a_calibration(admin: Admin, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = audited_policy(accepted_percent=50, deferred_percent=100)
    serve(admin, found, list(traffic(found.version, 8_000, 3, percents=(50, 100))))
    out = tmp_path / "calibration.json"
    assert main([*CALIBRATE, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "disagree with the large model's on at most 3 % of all requests" in said
    assert "Quality is agreement: 1 where the answers of small and of the last stage agree" in said
    assert "left out so that accepted and deferred ones weigh the same" in said
    made = calibrated.read(out.read_bytes())
    assert made.enabled
    assert made.binding == calibrated.Binding("small", "calibrated", 24, "content", "logprobs")


def test_other_lines_are_judged_by_as_many_tokens_as_the_stage_holds(
    admin: Admin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = audited_policy(accepted_percent=100, deferred_percent=100)
    serve(admin, found, list(traffic(found.version, 4_000, 3)))
    others = tmp_path / "others.jsonl"
    line = {"evidence": {"logprobs": [-0.01] * 24 + [-5.0] * 24}, "quality": {"small": 1, "large": 1}}
    others.write_text(f"{json.dumps(line)}\n" * 10, encoding="utf-8")
    assert main([*CALIBRATE, "--evaluate", str(others), "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluation"]["deferred"] == 0.0


@pytest.mark.parametrize(
    ("audit", "records", "said"),
    [
        ({"accepted_percent": 5, "deferred_percent": 0}, [], "the deferred replies of route chat were never audited"),
        ({"accepted_percent": 0, "deferred_percent": 5}, [], "the accepted replies of route chat were never audited"),
        ({"accepted_percent": 100, "deferred_percent": 100}, [], "no audited answer of small is among the records"),
        (
            {"accepted_percent": 100, "deferred_percent": 100},
            [1, None],
            "no deferred reply of small was audited, and the route defers",
        ),
        ({"accepted_percent": 100, "deferred_percent": 100}, [1, True], "too few"),
    ],
)
def test_what_is_no_fair_sample_is_refused(
    admin: Admin, audit: dict[str, Any], records: list[Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = audited_policy(**audit)
    serve(admin, found, [accepted(1, found.version), deferred(2, found.version, records[1])] if records else [])
    assert main(CALIBRATE) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--backend", "small"], 2, "--backend has no meaning with --from records"),
        (["--prefix-tokens", "3"], 2, "--prefix-tokens has no meaning"),
        (["--tokens", "all"], 2, "--tokens has no meaning"),
        (["--evidence", "logits"], 2, "--evidence has no meaning"),
        (["--route", ""], 2, "needs --route"),
        (["--route", "nowhere"], 2, "no route 'nowhere'"),
        (["--route", "plain"], 2, "no route 'plain'"),
    ],
)
def test_what_is_asked_wrongly_is_said(admin: Admin, more: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    serve(admin, audited_policy(), [])
    admin.answers["GET /policy"][1]["policy"]["routes"].append({"name": "plain", "cascade": None})
    assert main([*CALIBRATE, *more]) == code
    assert said in capsys.readouterr().err


def test_a_cascade_of_several_stages_is_not_supported(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    serve(admin, audited_policy(), [])
    stages = admin.answers["GET /policy"][1]["policy"]["routes"][0]["cascade"]["stages"]
    stages.append(stages[0])
    assert main(CALIBRATE) == 1
    assert "has 2 stages: --from records supports one" in capsys.readouterr().err


def test_without_data_nothing_is_calibrated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "cascade", "--cost", "small=0.1,large=1"]) == 2
    assert "--data is missing" in capsys.readouterr().err
    assert main(["calibrate", "cascade", "--cost", "small=0.1,large=1", "--data", "pairs.jsonl", "--route", "chat"]) == 2
    assert "--route has no meaning without --from records" in capsys.readouterr().err
