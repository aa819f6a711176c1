"""Options that can also be given in the environment: `--admin-port` is `HEADGATE_ADMIN_PORT`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

PREFIX = "HEADGATE_"


def add_option(parser: argparse.ArgumentParser, flag: str, help: str, default: str = "", type: Callable[[str], Any] = str) -> None:
    """Add `flag`; its default is taken from the environment where that has it. A bad value there is a usage error, too."""
    variable = PREFIX + flag.removeprefix("--").replace("-", "_").upper()
    shown = f" (default {default})" if default else ""
    parser.add_argument(flag, help=f"{help}{shown} [{variable}]", default=os.environ.get(variable) or default, type=type)


def port(text: str) -> int:
    """0 lets the system choose."""
    value = int(text)
    if not 0 <= value <= 65_535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text}")
    return value


def between(low: float, high: float) -> Callable[[str], float]:
    """A number from `low` to `high`."""

    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low:g} to {high:g}, not {text}")
        return value

    return number


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number from `low` to `high`."""

    def number(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low} to {high}, not {text}")
        return value

    return number


def choice(*words: str) -> Callable[[str], str]:
    """One of `words`; unlike argparse's own choices it also holds for what comes from the environment."""

    def word(text: str) -> str:
        if text not in words:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(words)}, not {text!r}")
        return text

    return word
