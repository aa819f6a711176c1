"""One timer for all."""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime
from typing import Any, cast

import pytest

from gateway.wire.fake import FakeLoop
from gateway.wire.ticker import Ticker


def test_sweeps_are_called_with_the_time_until_they_are_taken_back() -> None:
    ticker, seen = Ticker(cast(Any, FakeLoop())), list[float]()
    ticker.register(seen.append)
    ticker.tick(1001.0)
    assert (seen, ticker.now) == ([1001.0], 1001.0)
    ticker.unregister(seen.append)
    ticker.unregister(seen.append)
    ticker.tick(1002.0)
    assert seen == [1001.0]


def test_a_sweep_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    ticker, seen = Ticker(cast(Any, FakeLoop())), list[float]()

    def fail(now: float) -> None:
        raise ValueError("a bug")

    ticker.register(fail)
    ticker.register(seen.append)
    ticker.tick(1.0)
    assert seen == [1.0]
    assert "a bug" in caplog.text


def test_a_sweep_may_take_itself_back() -> None:
    ticker, seen = Ticker(cast(Any, FakeLoop())), list[float]()

    def once(now: float) -> None:
        seen.append(now)
        ticker.unregister(once)

    ticker.register(once)
    ticker.register(seen.append)
    ticker.tick(1.0)
    ticker.tick(2.0)
    assert seen == [1.0, 1.0, 2.0]


def test_the_date_line() -> None:
    ticker = Ticker(cast(Any, FakeLoop()))
    ticker._date(1.5)
    first = ticker.date_line
    assert first == b"date: Thu, 01 Jan 1970 00:00:01 GMT\r\n"
    ticker._date(1.9)
    assert ticker.date_line is first
    ticker._date(2.0)
    assert parsedate_to_datetime(ticker.date_line[6:-2].decode()).second == 2


async def test_it_runs_from_the_first_sweep_until_it_is_stopped() -> None:
    loop = asyncio.get_running_loop()
    ticker = Ticker(loop, period_s=0.001)
    ticks: list[float] = []
    enough = asyncio.Event()

    def count(now: float) -> None:
        ticks.append(now)
        if len(ticks) == 3:
            enough.set()
            ticker.stop()

    ticker.register(count)
    await enough.wait()
    await asyncio.sleep(0.01)
    assert len(ticks) == 3
    assert ticks == sorted(ticks)
