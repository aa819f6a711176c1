"""Stand-ins for the event loop and its transports: the connections run on them without a socket, in tests and in benchmarks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any


class FakeTransport(asyncio.Transport):
    """Keeps what is written, one item for each write, and what else was asked of it. `unsent` is the size it reports."""

    def __init__(self, peername: Any = ("127.0.0.1", 50_000)) -> None:
        super().__init__({"peername": peername})
        self.writes: list[bytes] = []
        self.unsent = 0
        self.reading = True
        self.closing = False
        self.aborted = False
        self.eof_written = False

    @property
    def written(self) -> bytes:
        return b"".join(self.writes)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.writes.append(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof_written = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return self.unsent


class FakeHandle:
    """What `call_later` gives."""

    def __init__(self, when: float) -> None:
        self._when = when

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        pass


class FakeLoop:
    """A clock that stands still and a queue of callbacks that is run by hand. Timers never fire: tests call `Ticker.tick`."""

    def __init__(self) -> None:
        self.clock = 1000.0
        self._soon: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()

    def time(self) -> float:
        return self.clock

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> None:
        self._soon.append((callback, args))

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> FakeHandle:
        return FakeHandle(self.clock + delay)

    def create_future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def run(self) -> None:
        """Call what has been put off, and what that puts off."""
        while self._soon:
            callback, args = self._soon.popleft()
            callback(*args)
