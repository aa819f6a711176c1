"""A load generator that costs less than the gateway: constant requests on kept connections, answers only counted.

`python -m loadtests.generator --url http://127.0.0.1:8080 --concurrency 32 --seconds 5 [--stream | --mixed] [--cold] [--once]`
prints one JSON object. A stream is good when it has every event and `[DONE]`. With `--cold` every request has a connection of its
own; with `--mixed` every fourth connection streams; with `--once` each connection asks once. What is not done `--patience` seconds
after the end is an error.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import resource
import time
from collections.abc import Iterable
from typing import cast
from urllib.parse import urlsplit

import msgspec
import uvloop

STAMP_AT_EVERY = 8
"""Of so many reads of a stream one is searched for the time that its last event was written."""


class Plan(msgspec.Struct, frozen=True):
    """What to send, how often and for how long."""

    url: str
    concurrency: int
    seconds: float
    stream: bool = False
    mixed: bool = False
    cold: bool = False
    once: bool = False
    model: str = "mock"
    prompt_bytes: int = 1000
    key: str = ""
    logprobs: bool = False
    events: int = 128
    """Of content, in every stream."""
    patience: float = 30.0
    ramp: float = 0.0
    """Seconds over which the clients begin."""

    def request(self, *, stream: bool) -> bytes:
        prompt = ("my parcel is late and nobody answers the phone, what can you do for me? " * (self.prompt_bytes // 60 + 1))[
            : self.prompt_bytes
        ]
        body: dict[str, object] = {
            "model": self.model,
            "messages": [{"role": "system", "content": "You are kind."}, {"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": 128,
        }
        if self.logprobs:
            body |= {"logprobs": True, "top_logprobs": 5}
        if stream:
            body["stream"] = True
        raw = json.dumps(body, separators=(",", ":")).encode()
        lines = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {urlsplit(self.url).netloc}\r\ncontent-type: application/json\r\n"
        if self.key:
            lines += f"authorization: Bearer {self.key}\r\n"
        if self.cold:
            lines += "connection: close\r\n"
        return lines.encode() + b"content-length: %d\r\n\r\n%s" % (len(raw), raw)


class Tally:
    """What all connections saw together. Times are seconds."""

    def __init__(self) -> None:
        self.requests = 0
        self.streams = 0
        self.events = 0
        self.errors: collections.Counter[str] = collections.Counter()
        self.latencies: list[float] = []
        self.first_events: list[float] = []
        self.delays: list[float] = []
        """From the mock's write of an event to our read of it, sampled."""


class Connection(asyncio.Protocol):
    """Sends a request, counts its answer, sends the next, until told to stop."""

    def __init__(self, plan: Plan, request: bytes, stream: bool, tally: Tally, running: asyncio.Event) -> None:
        self._plan = plan
        self._request = request
        self._stream = stream
        self._tally = tally
        self._running = running
        self._transport: asyncio.Transport | None = None
        self._left = -1
        self._events = self._reads = 0
        self._first = False
        self._tail = b""
        self._sent_at = self.begun_at = 0.0
        self.idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        self._left, self._tail, self._events, self._first = -1, b"", 0, False
        self._sent_at = self.begun_at or time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._left < 0:
            data = self._tail + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._tail = data
                return
            self._tail = b""
            if not data.startswith(b"HTTP/1.1 200"):
                self._fail("status " + data[9:12].decode("latin-1"))
                return
            at = data[:end].lower().find(b"\r\ncontent-length:")
            self._left = 1 if at < 0 else int(data[at + 17 : end + 2].split(b"\r\n", 1)[0])
            data = data[end + 4 :]
            if self._stream != (at < 0):
                self._fail("not a stream" if self._stream else "not a whole answer")
                return
        if self._stream:
            self._count_events(data)
        else:
            self._left -= len(data)
        if self._left == 0:
            self._done()

    def _count_events(self, data: bytes) -> None:
        tail = self._tail
        seen = data.count(b'"@')
        if seen and not self._first:
            self._first = True
            self._tally.first_events.append(time.perf_counter() - self._sent_at)
        if tail[-1:] == b'"' and data[:1] == b"@":
            seen += 1
        self._events += seen
        self._tally.events += seen
        self._reads += 1
        if not self._reads % STAMP_AT_EVERY and (at := data.rfind(b'"@')) >= 0 and len(data) > at + 18:
            self._tally.delays.append(time.monotonic() - int(data[at + 2 : at + 18]) / 1e6)
        end = (tail + data)[-40:]
        self._tail = end
        if end.endswith(b"\r\n0\r\n\r\n"):
            self._left = 0
            if self._events != self._plan.events:
                self._fail(f"{self._events} events")
            elif b"[DONE]" not in end:
                self._fail("no [DONE]")

    def _done(self) -> None:
        if self.idle.done():
            return
        self._tally.requests += 1
        self._tally.streams += self._stream
        self._tally.latencies.append(time.perf_counter() - self._sent_at)
        if self._running.is_set() and not self._plan.cold and not self._plan.once:
            self._send()
        else:
            self._finish()

    def _fail(self, why: str) -> None:
        if not self.idle.done():
            self._tally.errors[why] += 1
        self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("closed" if self._left < 0 else "cut off")

    def _finish(self) -> None:
        if not self.idle.done():
            self.idle.set_result(None)
        if self._transport is not None:
            self._transport.close()


async def ask_always(plan: Plan, tally: Tally, running: asyncio.Event, stream: bool, delay_s: float) -> None:
    """One client: a kept connection, or one a request."""
    await asyncio.sleep(delay_s)
    loop = asyncio.get_running_loop()
    request, parts = plan.request(stream=stream), urlsplit(plan.url)
    while True:
        connection = Connection(plan, request, stream, tally, running)
        if plan.cold:
            connection.begun_at = time.perf_counter()
        failed = tally.errors.total()
        try:
            await loop.create_connection(lambda made=connection: made, parts.hostname, parts.port)  # type: ignore[misc]
            await connection.idle
        except OSError as error:
            tally.errors[f"connect: {error.strerror}"] += 1
        if not running.is_set() or plan.once:
            return
        if tally.errors.total() > failed:
            await asyncio.sleep(0.05)


def quantiles(values: Iterable[float], name: str) -> dict[str, float]:
    """p50, p95 and p99 in microseconds."""
    ordered = sorted(values)
    return {f"{name}_p{q}_us": ordered[min(len(ordered) - 1, len(ordered) * q // 100)] * 1e6 for q in (50, 95, 99)} if ordered else {}


async def run(plan: Plan) -> dict[str, object]:
    """Drive the load; the figures are of the whole run, its draining included."""
    tally, running = Tally(), asyncio.Event()
    running.set()
    begun = time.perf_counter()
    streams = [plan.stream or (plan.mixed and each % 4 == 0) for each in range(plan.concurrency)]
    delays = [plan.ramp * each / plan.concurrency for each in range(plan.concurrency)]
    clients = [asyncio.ensure_future(ask_always(plan, tally, running, *each)) for each in zip(streams, delays, strict=True)]
    await asyncio.wait(clients, timeout=plan.seconds)
    running.clear()
    _, late = await asyncio.wait(clients, timeout=plan.patience)
    if late:
        tally.errors["not done in time"] += len(late)
        for client in late:
            client.cancel()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "requests": tally.requests,
        "streams": tally.streams,
        "events": tally.events,
        "errors": dict(tally.errors),
        "seconds": time.perf_counter() - begun,
        **quantiles(tally.latencies, "latency"),
        **quantiles(tally.first_events, "first_event"),
        **quantiles(tally.delays, "delay"),
        "generator_cpu_s": usage.ru_utime + usage.ru_stime,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5)
    for flag in ("--stream", "--mixed", "--cold", "--once", "--logprobs"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--model", default="mock")
    parser.add_argument("--prompt-bytes", type=int, default=1000)
    parser.add_argument("--key", default="")
    parser.add_argument("--events", type=int, default=128)
    parser.add_argument("--patience", type=float, default=30)
    parser.add_argument("--ramp", type=float, default=0)
    print(json.dumps(uvloop.run(run(Plan(**vars(parser.parse_args()))))))


if __name__ == "__main__":
    main()
