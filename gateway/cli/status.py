"""`headgate status`: what a running gateway is doing."""

from __future__ import annotations

import argparse
from typing import Any

from gateway.cli.admin_client import add_admin_options, ask
from gateway.cli.output import WELL, add_output, print_json, table


def configure(parser: argparse.ArgumentParser) -> None:
    add_admin_options(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    answer = ask(args, "GET", "/status")
    print_json(answer) if args.output == "json" else print("\n".join(lines(answer)))
    return WELL


def lines(value: Any, indent: str = "") -> list[str]:
    """Any JSON as indented text: a list of flat objects as a table, so that a field the gateway adds is shown without a change
    here."""
    if isinstance(value, dict):
        found = []
        for name, each in value.items():
            if _flat(each):
                found.append(f"{indent}{name}: {_word(each)}")
            else:
                found += [f"{indent}{name}", *lines(each, indent + "  ")]
        return found
    if isinstance(value, list) and value and all(isinstance(row, dict) and all(map(_flat, row.values())) for row in value):
        columns = list(dict.fromkeys(name for row in value for name in row))
        return table([columns, *([_word(row.get(name)) for name in columns] for row in value)], indent=indent).split("\n")
    if isinstance(value, list):
        return [line for each in value for line in ([f"{indent}{_word(each)}"] if _flat(each) else lines(each, indent))]
    return [f"{indent}{_word(value)}"]


def _flat(value: Any) -> bool:
    return not value or isinstance(value, str | int | float | bool) or (isinstance(value, list) and all(isinstance(x, str) for x in value))


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else "-" if value in (None, "", {}) else str(value)
