"""What commands print: the answer alone on stdout, as text or as JSON; everything else on stderr."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from gateway.errors import HeadgateError

WELL, WRONG, USAGE = 0, 1, 2
TIMES = ("at", "since")
"""Names of numbers that are Unix times, beside those that end so."""


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


def check_folder(path: Path, exit_code: int = WRONG) -> None:
    """To be called before minutes of work whose result goes to a file. Raises CommandError where its folder takes none."""
    if not path.parent.is_dir():
        raise CommandError(f"cannot write {path}: there is no folder {path.parent}", exit_code)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise CommandError(f"cannot write {path}: {'it is a folder' if path.is_dir() else 'its folder may not be written to'}", exit_code)


def table(rows: Iterable[Sequence[object]], *, indent: str = "  ") -> str:
    """Columns aligned by their widest cell."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join((indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip() for row in cells)


def readable(value: Any) -> str:
    """Any JSON as indented text, a list of flat objects as a table: a field that the gateway adds is shown without a change here.
    Objects that have a `text` say by it how people read them."""
    return "\n".join(_lines(value))


def _lines(value: Any, indent: str = "") -> list[str]:
    if _flat(value):
        return [f"{indent}{_word(value)}"]
    if isinstance(value, dict):
        return [line for name, each in value.items() for line in _named(name, each, indent)]
    if all(isinstance(row, dict) and isinstance(row.get("text"), str) for row in value):  # what is wrong with a policy: as `check` does
        return [f"{indent}{row['text']}" for row in value]
    if all(isinstance(row, dict) and all(map(_flat, row.values())) for row in value):
        columns = list(dict.fromkeys(name for row in value for name in row))
        return table([columns, *([_word(row.get(name), name) for name in columns] for row in value)], indent=indent).split("\n")
    found = []
    for each in value:
        first, *others = _lines(each, f"{indent}  ")
        found += [f"{indent}- {first.lstrip()}", *others]
    return found


def _named(name: str, value: Any, indent: str) -> list[str]:
    if _flat(value):
        return [f"{indent}{name}: {_word(value, name)}"]
    return [f"{indent}{name}", *_lines(value, f"{indent}  ")]


def _flat(value: Any) -> bool:
    """Fits in one word or a few."""
    return not value or isinstance(value, str | int | float | bool) or (isinstance(value, list) and all(isinstance(x, str) for x in value))


def _word(value: Any, name: str = "") -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if name in TIMES or name.endswith(("_since", "_at")):
            return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return "-" if value in (None, "", {}) else str(value)
