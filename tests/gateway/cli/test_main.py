"""The command line as a whole: exit codes, what is loaded, what goes where."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli.main import COMMANDS, main


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serv"])
    assert ended.value.code == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"headgate {command}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("headgate ")


def test_check_loads_nothing_heavy(policy: Path) -> None:
    program = (
        "import sys; from gateway.cli.main import main; code = main(['check', sys.argv[1]]); "
        "print(sorted({name.partition('.')[0] for name in sys.modules} "
        "& {'httpx', 'asyncio', 'starlette', 'uvicorn', 'numpy', 'sqlite3', 'opentelemetry', 'prometheus_client'})); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(policy)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_leaves_early_is_no_crash(policy: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m gateway.cli.main schema | head -1", shell=True, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""
