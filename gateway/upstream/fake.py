"""A backend played by hand: tests of the exchange script each reply and look at what was asked and cancelled."""

from __future__ import annotations

from gateway.upstream.base import Ask, Attempt, ReplyReceiver
from policies.plan import CallError

REPLICA = "http://fake:1"


class FakeCall:
    """`UpstreamCall`, and the strings of the puppet: `head`, `body`, `end`, `fail`. Once it is over nothing is heard of it."""

    def __init__(self, ask: Ask, receiver: ReplyReceiver) -> None:
        self.ask = ask
        self.receiver = receiver
        self.attempts = [Attempt(REPLICA, 0.0)]
        self.status = 0
        self.over = False
        self.cancelled = False
        self.content = False
        """`content_seen` was called."""
        self.faults: list[CallError] = []
        self.reading = True

    @property
    def request_body(self) -> bytes:
        return b"".join(self.ask.body)

    # What the exchange calls.

    def cancel(self) -> None:
        if not self.over:
            self.cancelled = True
            self._finish("cancelled")

    def content_seen(self) -> None:
        self.content = True

    def fault(self, error: CallError) -> None:
        self.faults.append(error)
        self._finish(error.kind)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    # What the test pulls.

    def head(self, status: int = 200, headers: dict[bytes, bytes] | None = None) -> None:
        if not self.over:
            self.status = status
            self.receiver.on_head(status, headers or {})

    def body(self, data: bytes) -> None:
        if not self.over:
            self.receiver.on_body(data)

    def end(self) -> None:
        if not self.over:
            self._finish("ok" if self.status < 400 else f"status:{self.status}")
            self.receiver.on_end()

    def fail(self, error: CallError) -> None:
        if not self.over:
            self._finish(error.kind)
            self.receiver.on_failure(error)

    def reply(self, status: int, headers: dict[bytes, bytes], *chunks: bytes) -> None:
        """A whole reply."""
        self.head(status, headers)
        for chunk in chunks:
            self.body(chunk)
        self.end()

    def _finish(self, result: str) -> None:
        self.over = True
        self.attempts[-1].result = result


class FakeUpstream:
    """`Upstream` that remembers its calls."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: list[FakeCall] = []
        self.closed = False
        self.others = True
        """It has a replica that is at no call yet."""

    @property
    def last(self) -> FakeCall:
        return self.calls[-1]

    def call(self, ask: Ask, receiver: ReplyReceiver) -> FakeCall:
        call = FakeCall(ask, receiver)
        self.calls.append(call)
        return call

    def has_other(self, avoid: tuple[str, ...]) -> bool:
        return self.others

    def close(self) -> None:
        self.closed = True
