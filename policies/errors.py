"""What can be wrong with a policy file, and where."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple

import msgspec

PROBLEMS_MAX = 1_000
"""Problems that one report lists; a file with more of them is not a policy with mistakes, it is another kind of file."""
_WORD_MAX = 64
_SHOWN_MAX = 60


class Mark(NamedTuple):
    """A place in the file, both from 1; columns count characters."""

    line: int
    column: int


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong: `policy.yaml:12:7: routes[0].failover[1]: no backend is named "smal"; did you mean "small"?`."""

    file: str
    line: int
    """From 1; 0 where it is not about a place in the file: the file is gone, say."""
    column: int
    path: str
    """`routes[0].failover[1]`; "" for the file as a whole."""
    message: str
    hint: str = ""

    def __str__(self) -> str:
        path = f"{self.path}: " if self.path else ""
        hint = f"; {self.hint}" if self.hint else ""
        place = f":{self.line}:{self.column}" if self.line else ""
        return f"{self.file}{place}: {path}{self.message}{hint}"


class PolicyError(Exception):
    """The file is not a policy. `problems` is everything wrong with it, by position."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class Report:
    """Collects the problems of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._problems: set[Problem] = set()
        self._more = False

    def add(self, at: Mark, path: str, message: str, hint: str = "") -> None:
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.add(Problem(self.file, at.line, at.column, path, message, hint))
        else:
            self._more = True

    def sorted(self) -> tuple[Problem, ...]:
        problems = sorted(self._problems, key=lambda p: (p.line, p.column, p.path, p.message))
        if self._more:
            last = problems[-1]
            problems.append(Problem(self.file, last.line, last.column, "", f"more than {PROBLEMS_MAX} problems; the rest is not shown"))
        return tuple(problems)

    def raise_if_any(self) -> None:
        if self._problems:
            raise PolicyError(self.sorted())


def nearest(word: str, words: Iterable[str]) -> str:
    """`did you mean "small"?`, or "" where nothing is near."""
    # In order, so that of two that are as near the same one is always meant.
    found = [] if word.isdigit() else get_close_matches(word[:_WORD_MAX], sorted(words), n=1, cutoff=0.6)
    return f'did you mean "{found[0]}"?' if found else ""


def shown(value: object) -> str:
    """A value from the file as a message shows it: on one line, cut to a readable length."""
    text = msgspec.json.encode(value).decode() if isinstance(value, str) else str(value).lower() if value is not None else "nothing"
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."
