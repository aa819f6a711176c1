"""Which of an operator's redaction patterns are safe to run on text that a stranger wrote.

Python's `re` backtracks, and a match cannot be interrupted: on the wrong text `(a+)+b` runs for years. So a pattern is refused
before it is in force unless the number of ways in which it can match from one place is bounded by a small number. Multiplied
by the window in which it is searched, that bounds its time, whatever the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

PATTERN_CHARS_MAX = 1_000
WAYS_MAX = 10_000
"""In which a pattern may match from one place."""
WINDOW_CHARS = 1_000
"""Of text that a pattern is run on at once; also what `*` and `+` count as."""
_MANY = WAYS_MAX + 1


def pattern_fault(pattern: str) -> str | None:
    """Why `pattern` cannot be used for redaction, in words for its author; None for a good one."""
    if len(pattern) > PATTERN_CHARS_MAX:
        return f"is longer than {PATTERN_CHARS_MAX} characters"
    try:
        compiled = re.compile(pattern)
        tree = parser.parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"is not a regular expression: {error}"
    if compiled.match("") is not None:
        return "matches the empty text"
    try:
        ways = _ways(tree)
    except ValueError as error:
        return str(error)
    if ways > WAYS_MAX:
        return (
            f"can match in more than {WAYS_MAX} ways from one place, so that some text would take it very long: bound its "
            "repetitions ({1,20} instead of * or +) and do not nest them"
        )
    return None


def _ways(sequence: Iterable[Any]) -> int:
    """In how many ways a sequence can match at one place, at most; `_MANY` for anything above `WAYS_MAX`."""
    ways = 1
    for op, argument in sequence:
        ways = min(_MANY, ways * _ways_of(op, argument))
    return ways


def _ways_of(op: Any, argument: Any) -> int:
    if op in (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT):
        least, most, body = argument
        return _repeated(_ways(body), least, min(int(most), WINDOW_CHARS))
    if op is ops.BRANCH:
        return min(_MANY, sum(map(_ways, argument[1])))
    if op is ops.SUBPATTERN:
        return _ways(argument[3])
    if op is ops.ATOMIC_GROUP:
        return _ways(argument)
    if op in (ops.ASSERT, ops.ASSERT_NOT):
        return _ways(argument[1])
    if op in (ops.GROUPREF, ops.GROUPREF_EXISTS):
        raise ValueError("refers back to a group, which cannot be bounded in time")
    return 1


def _repeated(body: int, least: int, most: int) -> int:
    if body == 1:
        return max(1, most - least + 1)
    total = 0
    for count in range(least, most + 1):  # stops early: the terms grow at least twofold
        total += body**count
        if total > WAYS_MAX:
            return _MANY
    return max(1, total)
