"""A loop whose clock is turned by hand, pools that only remember, and a receiver that writes down what it hears."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gateway.telemetry.counters import Counters
from gateway.upstream.address import Address
from gateway.upstream.base import Ask
from gateway.upstream.http import HttpUpstream
from gateway.wire.base import Receiver, WireFailure
from gateway.wire.ticker import Ticker
from policies.plan import CallError
from policies.schema import Backend


class FakeHandle:
    def __init__(self, when: float, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._when, self.callback, self.args = when, callback, args
        self.is_cancelled = False

    def __lt__(self, other: FakeHandle) -> bool:
        return self._when < other._when

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeLoop:
    def __init__(self) -> None:
        self.clock = 1000.0
        self._soon: deque[FakeHandle] = deque()
        self._later: list[FakeHandle] = []

    def time(self) -> float:
        return self.clock

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> FakeHandle:
        handle = FakeHandle(self.clock, callback, args)
        self._soon.append(handle)
        return handle

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> FakeHandle:
        handle = FakeHandle(self.clock + delay, callback, args)
        heapq.heappush(self._later, handle)
        return handle

    def run(self) -> None:
        """What is ready, and what that makes ready."""
        while self._soon:
            handle = self._soon.popleft()
            if not handle.is_cancelled:
                handle.callback(*handle.args)

    def advance(self, seconds: float) -> None:
        end = self.clock + seconds
        self.run()
        while self._later and self._later[0].when() <= end:
            handle = heapq.heappop(self._later)
            self.clock = handle.when()
            if not handle.is_cancelled:
                handle.callback(*handle.args)
            self.run()
        self.clock = end


class FakeTicket:
    """One request in a fake pool's hands, and the replica that answers it."""

    def __init__(self, parts: Sequence[bytes], receiver: Receiver, connect_timeout_s: float) -> None:
        self.parts = parts
        self.receiver = receiver
        self.connect_timeout_s = connect_timeout_s
        self.heard = False
        self.sent = True
        self.cancelled = False
        self.reading = True

    @property
    def text(self) -> bytes:
        return b"".join(self.parts)

    def cancel(self) -> None:
        self.cancelled = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def head(self, status: int = 200, headers: dict[bytes, bytes] | None = None) -> None:
        assert not self.cancelled
        self.heard = True
        self.receiver.response_head(status, headers or {})

    def body(self, data: bytes) -> None:
        assert not self.cancelled
        self.heard = True
        self.receiver.response_body(data)

    def end(self) -> None:
        assert not self.cancelled
        self.receiver.response_end()

    def fail(self, kind: str = "connect", *, sent: bool = False, received: bool = False, reused: bool = False) -> None:
        assert not self.cancelled
        self.receiver.response_failed(WireFailure(kind, f"it failed: {kind}", sent, received, reused))  # type: ignore[arg-type]

    def reply(self, status: int = 200, headers: dict[bytes, bytes] | None = None, body: bytes = b"{}") -> None:
        self.head(status, headers)
        self.body(body)
        self.end()


class FakePool:
    def __init__(self, address: Address, log: list[tuple[FakePool, FakeTicket]]) -> None:
        self.address = address
        self.tickets: list[FakeTicket] = []
        self.closed = False
        self._log = log

    def request(self, parts: Sequence[bytes], receiver: Receiver, *, connect_timeout_s: float) -> FakeTicket:
        ticket = FakeTicket(parts, receiver, connect_timeout_s)
        self.tickets.append(ticket)
        self._log.append((self, ticket))
        return ticket

    def close(self) -> None:
        self.closed = True


class Listener:
    """A `ReplyReceiver` that writes down what it hears, in order."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self.at_end: Callable[[], None] = lambda: None

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.heard.append(("head", status))

    def on_body(self, data: bytes) -> None:
        self.heard.append(("body", data))

    def on_end(self) -> None:
        self.heard.append(("end",))
        self.at_end()

    def on_failure(self, error: CallError) -> None:
        self.heard.append(("failure", error.kind))
        self.error = error

    @property
    def words(self) -> list[str]:
        return [entry[0] for entry in self.heard]


def backend(**fields: Any) -> Backend:
    """A backend of two replicas; nested options as plain dicts, as in the policy file."""
    defaults = {"name": "small", "kind": "vllm", "model": "m", "replicas": ["http://a:1", "http://b:2"]}
    return msgspec.convert(defaults | fields, Backend)


class Rig:
    """An `HttpUpstream` on fakes."""

    def __init__(self, *, share: int = 1, jitter: float = 0.5, **fields: Any) -> None:
        self.loop = FakeLoop()
        self.ticker = Ticker(self.loop)  # type: ignore[arg-type]
        self.counters = Counters()
        self.log: list[tuple[FakePool, FakeTicket]] = []
        self.pools: dict[str, FakePool] = {}
        self.turned: list[tuple[str, str, bool]] = []
        self.backend = backend(**fields)
        self.upstream = HttpUpstream(
            self.backend,
            loop=self.loop,  # type: ignore[arg-type]
            counters=self.counters,
            open_pool=self._open_pool,
            ticker=self.ticker,
            jitter=lambda: jitter,
            share=share,
            breaker_turned=lambda *what: self.turned.append(what),
        )

    def _open_pool(self, address: Address) -> FakePool:
        pool = FakePool(address, self.log)
        self.pools[address.host] = pool
        return pool

    def ask(self, **fields: Any) -> Ask:
        defaults: dict[str, Any] = {
            "path": b"/v1/chat/completions",
            "body": (b'{"model":', b'"m"}'),
            "headers": b"x-request-id: r1\r\n",
            "stream": False,
            "deadline": self.loop.clock + 600,
        }
        return Ask(**(defaults | fields))

    def call(self, **fields: Any) -> tuple[Any, Listener]:
        listener = Listener()
        return self.upstream.call(self.ask(**fields), listener), listener

    @property
    def last(self) -> FakeTicket:
        return self.log[-1][1]

    @property
    def hosts(self) -> list[str]:
        """Which replica each attempt went to."""
        return [pool.address.host for pool, _ in self.log]

    def pass_time(self, seconds: float) -> None:
        """Turn the clock, with a sweep every quarter of a second."""
        end = self.loop.clock + seconds
        while self.loop.clock < end - 1e-9:
            self.loop.advance(min(0.25, end - self.loop.clock))
        self.loop.run()

    def value(self, metric: str, *labels: str) -> float:
        return self.counters.counter(f"headgate_upstream_{metric}", "small", *labels).value
