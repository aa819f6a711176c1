"""A link within one process, for tests: the two ends as they are, over a pair of transports that are two queues."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.link.framed import Connector
from gateway.link.server import LinkServer


class MemoryTransport(asyncio.Transport):
    """Hands what is written to the other end in the loop's next turn. `stop` is what SIGSTOP does to the other process:
    nothing is read, and what is written piles up."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Any = None
        self.peer: MemoryTransport | None = None
        self._loop = asyncio.get_running_loop()
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._high = 64 * 1024
        self._stopped = False
        self._paused = False
        self._closing = False

    def stop(self) -> None:
        """Deliver nothing that is written here."""
        self._stopped = True

    def resume(self) -> None:
        """Deliver again."""
        self._stopped = False
        self._loop.call_soon(self._deliver)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is not None:
            self._high = high

    def get_write_buffer_size(self) -> int:
        return self._pending_bytes

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._closing:
            return
        self._pending.append(bytes(data))
        self._pending_bytes += len(data)
        if self._pending_bytes > self._high and not self._paused:
            self._paused = True
            self.protocol.pause_writing()
        self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        if self._stopped or self.peer is None or self.peer._closing or not self._pending:
            return
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        self.peer.protocol.data_received(data)
        if self._paused and not self._pending_bytes:
            self._paused = False
            self.protocol.resume_writing()

    def close(self) -> None:
        self._deliver()
        self.abort()

    def abort(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self.protocol.connection_lost, None)
            if self.peer is not None:
                self.peer.abort()


def memory_connector(server: Callable[[], LinkServer | None], opened: Callable[[MemoryTransport], None] | None = None) -> Connector:
    """Connects a `WorkerLink` to whichever server lives when it tries; `opened` is handed the worker's transport."""

    async def connect(factory: Callable[[], asyncio.Protocol]) -> object:
        controller = server()
        if controller is None:
            raise ConnectionRefusedError("no controller")
        near, far = MemoryTransport(), MemoryTransport()
        near.peer, far.peer = far, near
        near.protocol, far.protocol = factory(), controller.protocol()
        far.protocol.connection_made(far)
        near.protocol.connection_made(near)
        if opened is not None:
            opened(near)
        return near

    return connect
