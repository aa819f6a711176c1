"""Reads a policy file, and the files it names, from disk and environment."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.cli.output import USAGE, CommandError, hint
from policies.document import TEXT_BYTES_MAX
from policies.errors import PolicyError
from policies.load import Loaded, load
from policies.read import SECRET_BYTES_MAX


def load_file(path: Path) -> Loaded:
    """The policy at `path`. Raises PolicyError where it is wrong, CommandError where there is nothing to read."""
    try:
        text = read_bounded(path, TEXT_BYTES_MAX)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", USAGE) from error
    return load(text, name=str(path), read=lambda name: read_bounded(path.parent / name, SECRET_BYTES_MAX), env=os.environ)


def read_bounded(path: Path, bytes_max: int) -> bytes:
    """One byte more than allowed is enough to be refused."""
    with path.open("rb") as file:
        return file.read(bytes_max + 1)


def load_or_fail(path: Path) -> Loaded:
    """The policy at `path`; one that is wrong has its problems on stderr and raises CommandError."""
    try:
        return load_file(path)
    except PolicyError as error:
        for problem in error.problems:
            hint(str(problem))
        raise CommandError(f"{path} is wrong: {counted(len(error.problems), 'problem')}") from error


def counted(number: int, thing: str) -> str:
    """`1 problem`, `2 problems`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
