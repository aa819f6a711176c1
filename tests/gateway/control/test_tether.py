from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping

import pytest

from gateway.control.tether import Tether
from tests.gateway.link.examples import eventually


class Line:
    def __init__(self) -> None:
        self.far, near = socket.socketpair()
        self.restarts: list[Mapping[str, int]] = []
        self.gone = 0
        self.tether = Tether(near, on_restarts=self.restarts.append, on_gone=self._gone)

    def _gone(self) -> None:
        self.gone += 1


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    line = Line()
    line.tether.start()
    yield line
    line.tether.close()
    line.far.close()


async def test_reports_are_json_lines(line: Line) -> None:
    line.tether.report(ready=True)
    line.tether.report(engines=["embedded"])
    assert line.far.recv(1000) == b'{"ready":true}\n{"engines":["embedded"]}\n'


async def test_news_arrives_in_pieces_and_nonsense_is_passed_over(line: Line) -> None:
    line.far.send(b'{"restarts": {"wor')
    await asyncio.sleep(0.02)
    line.far.send(b'ker": 1}}\nnonsense\n\xff\n[1]\n{"restarts": {"worker": 2}}\n')
    await eventually(lambda: line.restarts == [{"worker": 1}, {"worker": 2}])


async def test_a_supervisor_that_does_not_read_is_not_waited_for(line: Line) -> None:
    for _ in range(10_000):
        line.tether.report(engines=["embedded"] * 10)


async def test_a_supervisor_that_is_gone_is_told_once(line: Line) -> None:
    line.far.close()
    await eventually(lambda: line.gone == 1)
    line.tether.report(ready=True)


async def test_without_a_line_it_is_silent() -> None:
    tether = Tether(None, on_restarts=lambda _: None, on_gone=lambda: None)
    tether.start()
    tether.report(ready=True)
    tether.close()
