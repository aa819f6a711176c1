"""What commands print: the answer alone on stdout, as text or as JSON; everything else on stderr."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

import msgspec

from gateway.errors import HeadgateError

WELL, WRONG, USAGE = 0, 1, 2


class CommandError(HeadgateError):
    """A command that cannot do what it was asked; the message is shown in one line."""

    def __init__(self, message: str, exit_code: int = WRONG) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def add_output(parser: argparse.ArgumentParser) -> None:
    """The option `--output text|json`."""
    parser.add_argument("--output", choices=("text", "json"), default="text", help="json: for machines, alone on stdout")


def print_json(value: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def hint(text: str) -> None:
    """Something for people, on stderr."""
    print(text, file=sys.stderr)


def table(rows: Iterable[Sequence[object]], *, indent: str = "  ") -> str:
    """Columns aligned by their widest cell."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join((indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip() for row in cells)
