"""The command line as a whole: exit codes, what is loaded, what goes where."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli.commands import COMMANDS
from gateway.cli.main import RUN_UNTIL_TOLD, main


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


@pytest.mark.parametrize("command", RUN_UNTIL_TOLD)
def test_a_wish_for_new_workers_comes_too_early_and_kills_nobody(command: str) -> None:
    """SIGUSR2 at each import that is made once the first line of the command has run, and nothing slow is loaded before that."""
    program = """
import os, signal, sys
from gateway.cli.main import main
assert not {"argparse", "msgspec", "asyncio", "yaml", "gateway.errors"} & set(sys.modules)
print(signal.getsignal(signal.SIGUSR2).name)
told = []
def tell(event, arguments):
    if event == "import":
        told.append(arguments[0])
        os.kill(os.getpid(), signal.SIGUSR2)
sys.addaudithook(tell)
try:
    main([sys.argv[1], "--help"])
finally:
    print({"argparse", "msgspec", "gateway.supervisor"} <= set(told))
"""
    done = subprocess.run([sys.executable, "-c", program, command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "SIG_DFL", "importing alone does nothing"
    assert done.stdout.splitlines()[-1] == "True"


def test_a_command_that_is_no_gateway_leaves_signals_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


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
