"""Responses: what is the same, what differs, and what is argued."""

from __future__ import annotations

import random
from typing import Any

import pytest

from loadtests.mutations import responses
from loadtests.mutations.judging import Case, judge
from loadtests.mutations.responses import SEEDS, Responses, difference

SIDE = Responses()
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
CHUNKED = SEEDS[1][1]


def case(data: bytes, *, method: bytes = b"GET", closes: bool = False) -> Case:
    return Case(data, data, method, closes)


@pytest.mark.parametrize(("method", "data"), SEEDS)
@pytest.mark.parametrize("closes", [False, True])
def test_readers_agree_on_what_is_well_formed(method: bytes, data: bytes, closes: bool) -> None:
    found = judge(SIDE, case(data, method=method, closes=closes), random.Random(1))
    assert not found.fault
    assert found.detail in ("", responses.KEPT, responses.CLOSED)


@pytest.mark.parametrize(
    ("asked", "ends"),
    [
        (case(LENGTH), ("response", 200, b"abc", True)),
        (case(LENGTH, closes=True), ("response", 200, b"abc", False)),
        (case(LENGTH, method=b"HEAD"), ("response", 200, b"", False)),
        (case(LENGTH + LENGTH), ("response", 200, b"abc", False)),
        (case(LENGTH[:-1]), ("waiting", 200, b"ab", False)),
        (case(CHUNKED[:-2], closes=True), ("cut", 200, b"hello world", False)),
        (case(b"HTTP/1.1 200 OK\r\n\r\nabc", closes=True), ("response", 200, b"abc", False)),
        (case(b"HTTP/1.1 204 No\r\nContent-Length: 3\r\n\r\n"), ("response", 204, b"", True)),
    ],
)
def test_what_is_read(asked: Case, ends: tuple[Any, ...]) -> None:
    word, _, status, _, body, kept = SIDE.ours(asked)
    assert (word, status, body, kept) == ends
    word, _, status, _, body, kept, *_ = SIDE.theirs(asked)
    assert (word, status, body, kept) == ends


def test_what_refuses_is_told_from_what_is_cut() -> None:
    broken = case(CHUNKED.replace(b"6;", b"zz;"), closes=True)
    assert SIDE.ours(broken)[0] == SIDE.theirs(broken)[0] == "refused"


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (b"200", b"201", "status"),
        (b"OK\r\n", b"OK\r\nx: y\r\n", "headers"),
        (b"abc", b"abd", "body"),
        (b"abc", b"abcd", "keeps, h11 closes"),
    ],
)
def test_what_two_readers_may_differ_in(old: bytes, new: bytes, what: str) -> None:
    assert difference(SIDE.ours(case(LENGTH)), SIDE.theirs(case(LENGTH.replace(old, new, 1)))) == what


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\r\n" + LENGTH, responses.EMPTY_LINES),
        (LENGTH + b"\r\n", responses.EMPTY_LINES),
        (b"HTTP/1.1 100 Continue\r\n\r\n\r\n" + LENGTH, responses.EMPTY_LINES),
        (LENGTH.replace(b"OK", b"O\0K"), "of a reason phrase"),
        (CHUNKED.replace(b"t: v", b"transfer-encoding: gzip"), "trailers are read over"),
        (CHUNKED.replace(b"\r\n0\r\nt: v", b"\r\n000\r\ntransfer-encoding: identity"), "trailers are read over"),
        (CHUNKED.replace(b"\r\n0\r\nt: v", b"\r\n0;a=b\r\nt: v\r\ntransfer-encoding: chunked, chunked"), "trailers are read over"),
        (CHUNKED.replace(b" world\r\n0\r\nt: v", b"rld\r\n0\r\n0\r\ntransfer-encoding: gzip"), "trailers are read over"),
        (LENGTH.replace(b"/1.1", b"/1.0").replace(b"OK\r\n", b"OK\r\nConnection: keep-alive\r\n"), responses.KEPT),
    ],
)
def test_what_is_argued_is_no_fault(data: bytes, why: str) -> None:
    found = judge(SIDE, case(data), random.Random(1))
    assert (found.kind, found.fault) == ("argued", False)
    assert found.detail.startswith(why)


def test_an_argument_holds_only_where_the_rest_is_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reason phrase is no excuse for another body."""
    theirs = Responses.theirs

    def other_body(self: Responses, asked: Case) -> Any:
        found = theirs(self, asked)
        return (*found[:4], b"abd", *found[5:]) if found[0] == "response" else found

    monkeypatch.setattr(Responses, "theirs", other_body)
    assert judge(SIDE, case(LENGTH.replace(b"OK", b"O\0K")), random.Random(1)).fault


def test_what_is_left_of_a_response_may_not_be_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "SECOND", b"HTTP/1.1 203 Second\r\nContent-Length: 3\r\n\r\nabc")
    with pytest.raises(AssertionError, match="the next answer"):
        SIDE.ours(case(LENGTH))


def test_a_head_that_was_learned_is_read_as_before() -> None:
    assert SIDE.ours(case(LENGTH), taught=True) == SIDE.ours(case(LENGTH))
    assert SIDE.ours(case(CHUNKED), taught=True) == ("not taught",)
