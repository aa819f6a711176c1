"""Options that can also be given in the environment: `--admin-port` is `HEADGATE_ADMIN_PORT`."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

PREFIX = "HEADGATE_"


class FromEnvironment(str):
    """A value that was not given on the command line; `variable` says where it was given."""

    variable: str

    def __new__(cls, text: str, variable: str) -> FromEnvironment:
        found = super().__new__(cls, text)
        found.variable = variable
        return found


def add_option(parser: argparse.ArgumentParser, flag: str, help: str, default: str = "", type: Callable[[str], Any] = str) -> None:
    """Add `flag`; its default is taken from the environment where that has it. A bad value there is a usage error, too, and says
    which variable is meant."""
    variable = PREFIX + flag.removeprefix("--").replace("-", "_").upper()
    shown = f" (default {default})" if default else ""
    given = os.environ.get(variable)

    def value(text: str) -> Any:
        try:
            return type(str(text))
        except argparse.ArgumentTypeError as error:
            if not isinstance(text, FromEnvironment):
                raise
            raise argparse.ArgumentTypeError(f"{text.variable} in the environment {error}") from error

    found = FromEnvironment(given, variable) if given else default
    parser.add_argument(flag, help=f"{help}{shown} [{variable}]", default=found, type=value)


def port(text: str) -> int:
    """0 lets the system choose."""
    return whole(0, 65_535)(text)


def between(low: float, high: float) -> Callable[[str], float]:
    """A number from `low` to `high`."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be a number from {low:g} to {high:g}, not {text!r}")
        return value

    return number


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number from `low` to `high`."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, not {text!r}")
        return value

    return number


def http_url(text: str) -> str:
    """A URL with a host; "" for none."""
    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        good = False
    if text and not good:
        raise argparse.ArgumentTypeError(f"must be a URL such as http://collector:4318/v1/traces, not {text!r}")
    return text


def choice(*words: str) -> Callable[[str], str]:
    """One of `words`; unlike argparse's own choices it also holds for what comes from the environment."""

    def word(text: str) -> str:
        if text not in words:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(words)}, not {text!r}")
        return text

    return word
