"""One short run of the real thing: supervisor, controller and a worker, measured; all four counts agree."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from loadtests import measure, report, run
from loadtests.peers import install
from loadtests.processes import Usage
from loadtests.scenarios import BY_NAME
from loadtests.subjects import Counts, Subject


@pytest.mark.skipif((os.cpu_count() or 1) < 2 or not shutil.which("taskset"), reason="needs two cores and taskset")
def test_headgate_is_measured_and_an_absent_peer_skipped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("HEADGATE_PEER_CACHE", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    monkeypatch.setattr(run, "WARM", ())
    monkeypatch.setattr(measure, "QUIET_LOOK_S", 0.2)
    short = ["--rounds", "1", "--seconds", "0.2", "--output", "json", "--scenario", "stream-32"]
    short += ["--scenario", "rule", "--scenario", "guard"]
    assert run.main(["--subject", "headgate", "--subject", "litellm", *short]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["void"] == []
    assert "loadtests.peers.install litellm" in told["skipped"]["litellm"]
    assert "us" in told["scenarios"]["rule"]["headgate"]
    assert "us" in told["scenarios"]["guard"]["headgate"]
    stream = told["scenarios"]["stream-32"]["headgate"]
    assert stream["us"]["median"] == pytest.approx(sum(stream[f"{role}_us"]["median"] for role in ("worker", "controller", "other")))
    assert stream["units"]["median"] % 128 == 0
    assert {"added_latency_p99_us", "added_first_event_p50_us", "added_delay_p99_us"} <= set(stream)


def test_an_install_that_cannot_be_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HEADGATE_PEER_CACHE", str(tmp_path))
    monkeypatch.setattr(install, "PACKAGES", {"no-such-peer": install.Package((), "bin/it")})
    monkeypatch.setattr("sys.argv", ["install", "no-such-peer"])
    assert install.main() == 1
    assert "no-such-peer: cannot be had here" in capsys.readouterr().err
    with pytest.raises(install.PeerMissingError):
        install.program("no-such-peer")


def test_memory_is_read_once_on_fresh_processes(capsys: pytest.CaptureFixture[str]) -> None:
    results = report.Results({})
    both = [BY_NAME[name] for name in ("memory", "memory-holding", "request-1")]
    assert [scenario.name for scenario in run.memory_once(both, results)] == ["memory", "request-1"]
    assert "in a run without memory" in results.skipped["memory-holding"]
    assert run.memory_once(both[1:], report.Results({})) == both[1:]
    assert run.memory_once(both[2:], report.Results({})) == both[2:]


COUNTS = {"requests": 10, "events": 0}


@pytest.mark.parametrize(
    ("seen", "backend", "told", "why"),
    [
        ({"errors": {"cut off": 1}}, {}, Counts(10, 10), "errors: {'cut off': 1}"),
        ({"requests": 0}, {"requests": 0}, Counts(0, 0), "nothing was answered"),
        ({}, {"requests": 11}, Counts(10, 10), "counted 10 requests, the backend 11"),
        ({"events": 5}, {"events": 4}, Counts(10, 10), "counted 5 events, the backend 4"),
        ({}, {}, Counts(9, 10), "counted 10 requests, the metrics 9, the store 10"),
        ({}, {}, Counts(10, 12), "counted 10 requests, the metrics 10, the store 12"),
        ({}, {}, Counts(10, 10), ""),
    ],
)
def test_a_round_whose_counts_disagree_is_void(
    seen: dict[str, Any], backend: dict[str, int], told: Counts, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "AGREE_S", 0.0)
    subject = cast(Subject, SimpleNamespace(counts=lambda: told))
    before = {"requests": 0, "events": 0}
    ask = partial(
        measure._agree, subject, BY_NAME["request-1"], {"errors": {}, **COUNTS, **seen}, before, {**COUNTS, **backend}, Counts(0, 0)
    )
    if why:
        with pytest.raises(measure.VoidError, match=re.escape(why)):
            ask()
    else:
        ask()


class Restless:
    """A subject that works on for so many looks after its clients have gone."""

    name = "restless"

    def __init__(self, looks: int) -> None:
        self.left = looks
        self.spent = 0.0

    def usage(self) -> dict[str, Usage]:
        self.left -= 1
        self.spent += 1.0 if self.left > 0 else 0.0
        return {"other": Usage(self.spent)}


def test_the_next_round_waits_for_what_the_last_one_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "QUIET_LOOK_S", 0.01)
    looks = itertools.count()
    monkeypatch.setattr(measure, "ask_mock", lambda port, path: {"requests": 1, "events": 2, "connections": next(looks)})
    subject = Restless(9)
    assert measure.wait_until_quiet(cast(Subject, subject), 0)
    assert subject.left < 0
    monkeypatch.setattr(measure, "QUIET_S", 0.05)
    assert not measure.wait_until_quiet(cast(Subject, Restless(1_000_000)), 0)
