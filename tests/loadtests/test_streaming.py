"""The short form of the streaming benchmark; the long one is `python -m loadtests.streaming`."""

from __future__ import annotations

import json
import os

import pytest

from loadtests.streaming import Seen, main, missed, told, unchunked


def test_a_held_stream_begins_in_time_and_a_deferred_one_stops(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    short = ["--only", "held", "--rounds", "1", "--streams", "2", "--holds", "2", "--interval-ms", "150", "--output", "json"]
    assert main(short) == 0
    (row,) = json.loads(capsys.readouterr().out)["held"]
    assert (row["accepted"], row["deferred"]) == (2, 2)
    assert 2 <= row["first_byte_token_min"] <= row["first_byte_token_max"] <= 4
    assert row["big_asked_after_token_n_ms"]["max"] > 0


def test_what_a_stream_must_not_show() -> None:
    accepted = Seen(8, True, held_at=1.0, first_byte_at=1.1, first_byte_token=10, whole=True)
    deferred = Seen(8, False, held_at=1.0, stopped_at=1.4, big_asked_at=1.1, whole=True)
    assert missed(told([accepted, deferred], (8,))) == []
    late = Seen(8, True, held_at=1.0, first_byte_at=1.2, first_byte_token=11, whole=True)
    early = Seen(8, True, held_at=1.0, first_byte_at=0.9, first_byte_token=7)
    slow = Seen(8, False, held_at=1.0, stopped_at=1.6, big_asked_at=1.1, whole=True)
    never = Seen(8, False, held_at=1.0, big_asked_at=1.1, whole=True)
    assert missed(told([accepted, late, early, deferred, slow, never], (8,))) == [
        "hold 8: 1 answers were not whole",
        "hold 8: 1 accepted streams began after token N + 2",
        "hold 8: 1 accepted streams began before they were judged",
        "hold 8: 2 deferred streams still ran 0.5 s later",
    ]


def test_a_body_in_chunks_is_put_together() -> None:
    assert unchunked(b"HTTP/1.1 200 OK\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n") == b"abcde"
