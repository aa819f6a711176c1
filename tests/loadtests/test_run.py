"""One short run of the real thing: supervisor, controller and a worker, measured; all four counts agree."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from loadtests import run
from loadtests.peers import install


@pytest.mark.skipif((os.cpu_count() or 1) < 2 or not shutil.which("taskset"), reason="needs two cores and taskset")
def test_headgate_is_measured_and_an_absent_peer_skipped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("HEADGATE_PEER_CACHE", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    short = ["--rounds", "1", "--seconds", "0.3", "--output", "json", "--scenario", "request-32", "--scenario", "stream-32"]
    assert run.main(["--subject", "headgate", "--subject", "litellm", *short]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["void"] == []
    assert "loadtests.peers.install litellm" in told["skipped"]["litellm"]
    request, stream = (told["scenarios"][name]["headgate"] for name in ("request-32", "stream-32"))
    assert request["us"]["median"] == pytest.approx(sum(request[f"{role}_us"]["median"] for role in ("worker", "controller", "other")))
    assert stream["units"]["median"] % 128 == 0
    assert {"added_latency_p99_us", "added_first_event_p50_us", "added_delay_p99_us"} <= set(stream)


def test_an_install_that_cannot_be_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HEADGATE_PEER_CACHE", str(tmp_path))
    monkeypatch.setattr(install, "PACKAGES", {"litellm": install.Package(("no such requirement",), "bin/litellm")})
    monkeypatch.setattr("sys.argv", ["install", "litellm"])
    assert install.main() == 1
    assert "litellm: cannot be had here" in capsys.readouterr().err
    with pytest.raises(install.PeerMissingError):
        install.program("litellm")
