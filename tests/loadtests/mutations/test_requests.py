"""Requests: what is the same, what differs, and what is argued."""

from __future__ import annotations

import random

import pytest

from loadtests.mutations.judging import Case, Verdict, judge
from loadtests.mutations.requests import SEEDS, Requests, difference

GET = SEEDS[0]
SIDE = Requests()


def case(data: bytes) -> Case:
    return Case(data, data)


@pytest.mark.parametrize("data", SEEDS)
def test_readers_agree_on_what_is_well_formed(data: bytes) -> None:
    assert judge(SIDE, case(data), random.Random(1)) == Verdict()


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [(b"GET", b"PUT", "method"), (b"/", b"/other", "target"), (b"Host: h", b"Host: g", "headers")],
)
def test_what_two_readers_may_differ_in(old: bytes, new: bytes, what: str) -> None:
    assert difference(SIDE.ours(case(GET)), SIDE.theirs(case(GET.replace(old, new, 1)))) == what


@pytest.mark.parametrize("data", [b"\r\n" + GET, GET.replace(b" / ", b"  /  ")])
def test_what_is_argued_is_no_fault(data: bytes) -> None:
    found = judge(SIDE, case(data), random.Random(1))
    assert (found.kind, found.fault) == ("argued", False)
