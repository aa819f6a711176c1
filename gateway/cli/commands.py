"""The commands: one file each, and only the file of the command that was asked for is loaded."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import Protocol, cast

from gateway.cli.output import WRONG, CommandError
from gateway.compiled import is_compiled
from gateway.errors import HeadgateError

COMMANDS = {
    "serve": "run the gateway",
    "demo": "run the gateway on two small models that come with it",
    "check": "say everything that is wrong with a policy file",
    "explain": "walk one request through a policy, or show what was done with one",
    "diff": "say what a change of policy changes",
    "fit": "fit an OOD detector on texts",
    "score": "score texts with a detector",
    "schema": "print the JSON Schema of the policy file",
    "reference": "print the reference page of the policy file, or of the metrics",
    "status": "show what a running gateway is doing",
    "report": "show what a running gateway's cascades defer, save and lose",
    "rollback": "put the policy before this one back in force",
    "key": "make an API key",
    "calibrate": "choose, from pairs of answers, when a cascade defers",
}
INTERRUPTED = 130


class Command(Protocol):
    """What every module of a command has."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it; the exit code."""
        ...


def run(arguments: Sequence[str], asked: str) -> int:
    """Run a command line whose first word is `asked`; the exit code, as `gateway.cli.main` says."""
    parser = argparse.ArgumentParser(prog="headgate", description="An OpenAI-compatible gateway for your own fine-tuned models.")
    how = "compiled" if is_compiled() else "interpreted"
    parser.add_argument("--version", action="version", version=f"headgate {metadata.version('headgate')} ({how})")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    command: Command | None = None
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == asked:
            command = cast(Command, import_module(f"gateway.cli.{name}"))
            command.configure(sub)
    args = parser.parse_args(arguments)
    assert command is not None
    try:
        code = command.run(args)
        sys.stdout.flush()
    except HeadgateError as error:
        print(f"headgate {args.command}: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, CommandError) else WRONG
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has read enough. Python flushes stdout once more at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return WRONG
    return code
