"""Messages for the link's tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.link.messages import Ack, Content, ExchangeRecord, Hello, Records, Totals, Up
from gateway.link.server import Worker


def record(exchange_id: str, *, content: bytes = b"") -> ExchangeRecord:
    return ExchangeRecord(
        exchange_id=exchange_id,
        request_id="r",
        trace_id="",
        span_id="",
        parent_span_id="",
        trace_sampled=False,
        policy_version="v1",
        started_at=time.time(),
        duration=0.5,
        endpoint="chat",
        model="m",
        stream=False,
        route="chat",
        key="",
        unit="",
        segments=(("tenant", "acme"),),
        reason="primary",
        backend="small",
        code=200,
        error="",
        committed=0.1,
        overhead=0.001,
        bytes_in=10,
        bytes_out=20,
        calls=(),
        content=Content(content, b"") if content else None,
    )


def hello(worker: int = 0, incarnation: str = "a") -> Hello:
    return Hello(worker=worker, pid=1, incarnation=incarnation, policy_version="")


class Controller:
    """Hears workers; acknowledges batches unless told not to."""

    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []
        self.records: list[str] = []
        self.workers: list[Worker] = []
        self.acknowledges = True
        self._changed = asyncio.Event()

    def on_hello(self, worker: Worker) -> None:
        self.workers.append(worker)
        self._note("hello", worker.hello)

    def on_message(self, worker: Worker, message: Up) -> None:
        if isinstance(message, Records):
            self.records += [each.exchange_id for each in message.records]
            if self.acknowledges:
                worker.send(Ack(message.sequence))
        self._note("message", message)

    def on_gone(self, worker: Worker) -> None:
        self.workers.remove(worker)
        self._note("gone", worker.hello)

    def _note(self, what: str, value: object) -> None:
        self.events.append((what, value))
        self._changed.set()

    @property
    def totals(self) -> list[Totals]:
        return [value for _, value in self.events if isinstance(value, Totals)]

    async def until(self, condition: Callable[[], bool], within_s: float = 5.0) -> None:
        async with asyncio.timeout(within_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


async def eventually(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    """Wait for what has no event of its own."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)
