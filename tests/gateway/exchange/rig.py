"""An exchange without sockets: backends played by hand, a clock turned by hand, and a client that only remembers."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import Any

from gateway.exchange.audits import Audits
from gateway.exchange.executor import Exchange
from gateway.exchange.measures import RouteMeasures
from gateway.exchange.memory import RouteMemory
from gateway.exchange.order import Order, Site
from gateway.exchange.recording import ContentKeeper
from gateway.exchange.snapshot import Target
from gateway.link.messages import ExchangeRecord
from gateway.protocol.body import decode
from gateway.scoring.base import Scoring
from gateway.telemetry.counters import Counters
from gateway.telemetry.trace_context import TraceContext
from gateway.upstream.fake import FakeCall, FakeUpstream
from gateway.wire.base import Observer
from policies.plan import Answer, Call, CallError, Endpoint, Hold, Outcome, Plan, Reason, Verdict, call
from policies.schema import Backend, Policy, Price, Route
from tests.gateway.upstream.rig import FakeLoop

SSE = {b"content-type": b"text/event-stream; charset=utf-8"}
JSON = {b"content-type": b"application/json"}
CONNECT = CallError("connect", "10.0.0.7:8000: [Errno 111] Connection refused")
TRACE = TraceContext("a" * 32, "b" * 16, "c" * 16, True)


def event(content: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    delta = {} if content is None else {"content": content}
    value = {"id": "c-1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


USAGE = b'data: {"id":"c-1","model":"m","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE = json.dumps(
    {
        "model": "m",
        "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }
).encode()


class FakeReply:
    """`gateway.wire.base.Reply` that keeps what was written; like the real one it ignores everything once it is over."""

    def __init__(self) -> None:
        self.observer: Observer | None = None
        self.started = False
        self.bytes_out = 0
        self.status = 0
        self.head = b""
        self.body = b""
        self.over = False
        self.left = False
        self.pause_at: int | None = None
        """So many bytes fill the client's buffer."""

    @property
    def headers(self) -> dict[str, str]:
        assert self.head.endswith(b"\r\n")
        return dict(line.split(": ", 1) for line in self.head.decode().split("\r\n")[:-1])

    @property
    def error(self) -> dict[str, Any]:
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error  # type: ignore[no-any-return]

    def send(self, status: int, headers: bytes, body: bytes) -> None:
        if not self.over:
            self._begin(status, headers)
            self._take(body)
            self.over = True

    def start(self, status: int, headers: bytes, first: bytes = b"") -> None:
        if not self.over:
            self._begin(status, headers)
            self._take(first)

    def write(self, data: bytes) -> None:
        if not self.over:
            assert self.started
            self._take(data)

    def end(self, last: bytes = b"") -> None:
        if not self.over:
            assert self.started
            self._take(last)
            self.over = True

    def abort(self) -> None:
        self.over = True

    def leave(self) -> None:
        """The client goes."""
        self.over = self.left = True
        assert self.observer is not None
        self.observer.client_left()

    def _begin(self, status: int, headers: bytes) -> None:
        assert not self.started, "two heads"
        self.started = True
        self.status, self.head = status, headers

    def _take(self, data: bytes) -> None:
        self.body += data
        self.bytes_out += len(data)
        if self.pause_at is not None and self.bytes_out >= self.pause_at and self.observer is not None:
            self.pause_at = None
            self.observer.pause_writing()


class Rig:
    """One exchange and everything around it."""

    def __init__(
        self,
        plan: Plan,
        *,
        endpoint: Endpoint = "chat",
        stream: bool = True,
        debug: bool = False,
        keep_alive_after: float | None = None,
        keep_content: bool = False,
        backends: tuple[str, ...] = ("small", "big"),
        memory: RouteMemory | None = None,
        scoring: Scoring | None = None,
        **body: Any,
    ) -> None:
        self.loop = FakeLoop()
        self.reply = FakeReply()
        self.records: list[ExchangeRecord] = []
        self.lefts: list[str] = []
        self.released = 0
        self.counters = Counters()
        self.upstreams = {name: FakeUpstream(name) for name in backends}
        self.in_flight: set[Exchange] = set()
        price = Price(input=1, output=2, currency="EUR", per_tokens=1000)
        policy = Policy(1, tuple(Backend(name, "openai", f"{name}-model", price=price) for name in backends), (Route("main", ()),))
        ids = iter(range(1, 1000))
        self.audits = Audits(now=self.loop.time, call_later=self.loop.call_later, new_id=lambda bits: next(ids))  # type: ignore[arg-type]
        site = Site(
            now=self.loop.time,
            call_later=self.loop.call_later,  # type: ignore[arg-type]
            new_id=lambda bits: next(ids),
            emit=self.records.append,
            left=self.lefts.append,
            in_flight=self.in_flight,
            audits=self.audits,
            scoring=scoring,
        )
        raw = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "hi"}], "stream": stream, **body}).encode()
        order = Order(
            exchange_id="x-1",
            request_id="r-1",
            route="main",
            plan=plan,
            targets={backend.name: Target(backend, self.upstreams[backend.name]) for backend in policy.backends},  # type: ignore[arg-type]
            measures=RouteMeasures("main", policy, self.counters, memory),
            policy_version="v-1",
            release=self._release,
            body=decode(raw, endpoint),
            path=b"/v1/chat/completions",
            trace=TRACE,
            started=self.loop.clock - 0.5,
            deadline=self.loop.clock + 600,
            key="acme",
            debug=debug,
            unit="u-1",
            segments=(("tenant", "acme"),),
            keep_alive_after=keep_alive_after,
            content=ContentKeeper(raw) if keep_content else None,
        )
        self.raw = raw
        self.exchange = Exchange(site, order, self.reply)
        self.exchange.start()

    def _release(self) -> None:
        self.released += 1

    def call(self, name: str = "small") -> FakeCall:
        """The latest call to that backend."""
        return self.upstreams[name].last

    @property
    def calls(self) -> list[FakeCall]:
        return [call for upstream in self.upstreams.values() for call in upstream.calls]

    def pass_time(self, seconds: float) -> None:
        self.loop.advance(seconds)

    @property
    def record(self) -> ExchangeRecord:
        """The one record, and with it everything that must hold when an exchange is over."""
        assert len(self.records) == 1
        assert self.released == 1
        assert self.in_flight == set()
        assert self.audits.running == set()
        assert self.reply.observer is None
        assert all(call.over for call in self.calls), "a call still runs"
        return self.records[0]

    def counted(self, name: str, *labels: str) -> float:
        return self.counters.counter(name, *labels).value


def single(hold: Hold = Hold(), reason: Reason = "primary") -> Generator[Call, Outcome, Verdict]:  # noqa: B008  (frozen)
    outcome = yield from call("small", hold)
    return Answer(outcome, reason)


def failover(hold: Hold = Hold()) -> Generator[Call, Outcome, Verdict]:  # noqa: B008  (frozen)
    outcome = yield from call("small", hold)
    if outcome.error is None:
        return Answer(outcome)
    outcome = yield from call("big", hold)
    return Answer(outcome, "failover")


def judged(hold: Hold, good: Callable[[Outcome], bool]) -> Generator[Call, Outcome, Verdict]:
    """A cascade of two: the first answer if it is good."""
    outcome = yield from call("small", hold)
    if good(outcome):
        return Answer(outcome)
    outcome = yield from call("big")
    return Answer(outcome, "low_confidence")


def finish(rig: Rig, name: str = "small") -> None:
    rig.call(name).body(event("", "stop") + DONE)
    rig.call(name).end()
