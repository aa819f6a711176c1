"""A policy file as the commands read it: the files it names with the controller's own code."""

from __future__ import annotations

import os

from gateway.cli.output import USAGE, CommandError, hint
from gateway.control.policy_file import FILE_BYTES_MAX, read_bounded
from policies.document import TEXT_BYTES_MAX
from policies.errors import PolicyError
from policies.load import Loaded, load


def load_file(path: str) -> Loaded:
    """The policy at `path`. Raises PolicyError where it is wrong, CommandError where there is nothing to read."""
    try:
        with open(path, "rb") as file:  # may be a pipe: `headgate diff <(git show HEAD:policy.yaml) policy.yaml`
            text = file.read(TEXT_BYTES_MAX + 1)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", USAGE) from error
    folder = os.path.dirname(path)
    return load(text, name=path, read=lambda named: read_bounded(os.path.join(folder, named), FILE_BYTES_MAX), env=os.environ)


def load_or_fail(path: str) -> Loaded:
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
