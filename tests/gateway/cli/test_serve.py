"""What `serve` makes of its options and refuses; running it is for tests/e2e."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import serve
from gateway.cli.main import main
from gateway.settings import Settings
from gateway.supervisor import listen


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Settings of the gateways that would have been started."""
    started: list[Settings] = []

    def fake(settings: Settings, **_: Any) -> int:
        started.append(settings)
        return 0

    monkeypatch.setattr("gateway.supervisor.serve", fake)
    return started


def test_defaults(policy: Path, served: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(policy.parent)
    assert main(["serve", "policy.yaml"]) == 0
    settings = served[0]
    assert settings.policy == str(policy)
    assert (settings.host, settings.port, settings.admin_port, settings.metrics_port) == ("127.0.0.1", 8080, 8081, 8082)
    assert settings.drain_s == 7.0
    assert settings.admin_key.startswith("hg-")
    assert Path(settings.state_dir).name.startswith("policy-")


def flags() -> list[str]:
    parser = argparse.ArgumentParser()
    serve.add_options(parser)
    return [action.option_strings[0] for action in parser._actions if action.option_strings[0] != "-h"]


@pytest.mark.parametrize("flag", flags())
def test_every_flag_is_also_read_from_the_environment(
    flag: str, policy: Path, served: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(policy)
    given = {"--log-format": "json", "--log-level": "debug", "--host": "127.0.0.2", "--state-dir": "/somewhere"}
    given |= {"--otlp-endpoint": "http://c:4318/v1/traces", "--otlp-metrics-endpoint": "http://c/v1/metrics"}
    value = given.get(flag, file if flag in ("--tls-cert", "--tls-key", "--upstream-ca") else "7" if "port" in flag else "3")
    also = ["--tls-key", file] if flag == "--tls-cert" else ["--tls-cert", file] if flag == "--tls-key" else []
    assert main(["serve", file, flag, value, *also]) == 0
    monkeypatch.setenv("HEADGATE_" + flag[2:].replace("-", "_").upper(), value)
    assert main(["serve", file, *also]) == 0
    assert served[0] == served[1]
    assert str(getattr(served[0], flag[2:].replace("-", "_"))).startswith(value)


def test_the_policy_is_read_from_the_environment(policy: Path, served: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADGATE_POLICY", str(policy))
    assert main(["serve"]) == 0
    assert served[0].policy == str(policy)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--port", "70000"),
        ("--port", "http"),
        ("--workers", "0"),
        ("--workers", "many"),
        ("--workers", "1.5"),
        ("--log-format", "xml"),
        ("--trace-sample-percent", "101"),
        ("--trace-sample-percent", "some"),
        ("--otlp-endpoint", "foo"),
        ("--otlp-endpoint", "collector:4318"),
        ("--otlp-endpoint", "http://collector:port/v1/traces"),
        ("--otlp-metrics-endpoint", "grpc://collector:4317"),
    ],
)
def test_a_bad_option_is_usage(option: str, value: str, policy: Path, served: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(policy), option, value])
    assert ended.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {option}: must be " in error
    assert f"not {value!r}" in error
    assert served == []


def test_a_bad_option_in_the_environment_is_usage_and_names_the_variable(
    policy: Path, served: list[Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADGATE_PORT", "http")
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(policy)])
    assert ended.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("argument --port: HEADGATE_PORT in the environment must be a whole number from 0 to 65535, not 'http'")
    assert main(["serve", str(policy), "--port", "7"]) == 0, "what is given on the command line stands"


@pytest.mark.parametrize(
    ("options", "metrics"),
    [
        ([], ""),
        (["--otlp-endpoint", "http://c:4318/v1/traces"], "http://c:4318/v1/metrics"),
        (["--otlp-endpoint", "http://c:4318/elsewhere"], ""),
        (["--otlp-endpoint", "http://c:4318/v1/traces", "--otlp-metrics-endpoint", "http://d/v1/metrics"], "http://d/v1/metrics"),
        (["--otlp-metrics-endpoint", "http://d/v1/metrics"], "http://d/v1/metrics"),
    ],
)
def test_metrics_go_where_traces_go_unless_told_otherwise(options: list[str], metrics: str, policy: Path, served: list[Settings]) -> None:
    assert main(["serve", str(policy), *options]) == 0
    assert served[0].otlp_metrics_endpoint == metrics


def test_a_state_folder_too_long_for_its_socket_is_usage(policy: Path, served: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(policy), "--state-dir", "/" + "x" * 92]) == 2
    assert "choose another with --state-dir" in capsys.readouterr().err
    assert main(["serve", str(policy), "--state-dir", "/" + "x" * 91]) == 0
    long = policy.with_name("p" * 100 + ".yaml")
    long.write_text(policy.read_text())
    assert main(["serve", str(long)]) == 0


def test_a_certificate_needs_its_key(policy: Path, served: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(policy), "--tls-cert", str(policy)]) == 2
    assert main(["serve", str(policy), "--tls-cert", "/no.pem", "--tls-key", "/no.key"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "headgate serve: --tls-cert and --tls-key go together",
        "headgate serve: cannot read /no.pem",
    ]
    assert served == []


def test_a_wrong_policy_starts_nothing(tmp_path: Path, served: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 2\n")
    assert main(["serve", str(path)]) == 1
    assert f"{path}:1:10: version: " in capsys.readouterr().err
    assert served == []


@pytest.mark.parametrize(
    ("host", "refused"),
    [("0.0.0.0", True), ("::", True), ("gateway.internal", True), ("127.0.0.9", False), ("localhost", False), ("::1", False)],
)
def test_without_keys_it_listens_on_loopback_only(
    host: str, refused: bool, policy: Path, served: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    text = policy.read_text()
    open_policy = policy.with_name("open.yaml")
    open_policy.write_text(text[: text.index("keys:")].replace("key:tenant", "header:x-tenant").replace("unit: [key]", "unit: [body:user]"))
    assert main(["serve", str(open_policy), "--host", host]) == (1 if refused else 0)
    assert ("loopback only" in capsys.readouterr().err) is refused
    open_policy.write_text(open_policy.read_text() + "server: {anonymous: true}\n")
    assert main(["serve", str(open_policy), "--host", host]) == 0
    assert main(["serve", str(policy), "--host", host]) == 0


def test_a_port_in_use_is_one_line(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0, "--port") as held:
        port = str(held.getsockname()[1])
        assert main(["serve", str(policy), "--port", port]) == 1
    assert capsys.readouterr().err == (
        f"headgate serve: cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --port\n"
    )


def test_announcement(capsys: pytest.CaptureFixture[str]) -> None:
    serve.announce(Settings(policy="/p", state_dir="/s", host="0.0.0.0", port=80, admin_host="::1", tls_cert="/c"))
    assert capsys.readouterr().err.splitlines()[1:3] == ["  base_url  https://127.0.0.1:80/v1", "  admin     http://[::1]:8081"]
