"""A load generator that costs less than the gateway: keep-alive connections, constant requests, answers only counted.

`python -m loadtests.generator --url http://127.0.0.1:8080 --concurrency 32 --seconds 5 [--stream]` prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from typing import cast
from urllib.parse import urlsplit

import msgspec
import uvloop


class Plan(msgspec.Struct, frozen=True):
    """What to send, how often and for how long."""

    url: str
    concurrency: int
    seconds: float
    stream: bool
    model: str = "mock"
    prompt_bytes: int = 1000
    key: str = ""

    def request(self) -> bytes:
        prompt = ("my parcel is late and nobody answers the phone, what can you do for me? " * (self.prompt_bytes // 60))[
            : self.prompt_bytes
        ]
        body: dict[str, object] = {
            "model": self.model,
            "messages": [{"role": "system", "content": "You are kind."}, {"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": 128,
        }
        if self.stream:
            body["stream"] = True
        raw = json.dumps(body, separators=(",", ":")).encode()
        lines = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {urlsplit(self.url).netloc}\r\ncontent-type: application/json\r\n"
        if self.key:
            lines += f"authorization: Bearer {self.key}\r\n"
        return lines.encode() + b"content-length: %d\r\n\r\n%s" % (len(raw), raw)


class Tally:
    """What all connections saw together."""

    def __init__(self) -> None:
        self.requests = 0
        self.chunks = 0
        self.errors = 0
        self.bytes = 0
        self.latencies: list[float] = []


class Connection(asyncio.Protocol):
    """Sends a request, counts its answer, sends the next, until told to stop."""

    def __init__(self, request: bytes, stream: bool, tally: Tally, running: asyncio.Event) -> None:
        self._request = request
        self._stream = stream
        self._tally = tally
        self._running = running
        self._transport: asyncio.Transport | None = None
        self._left = -1
        self._head = b""
        self._sent_at = 0.0
        self.idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        self._left, self._head, self._sent_at = -1, b"", time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._tally.bytes += len(data)
        if self._left < 0:
            data = self._head + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._head = data
                return
            if not data.startswith(b"HTTP/1.1 200"):
                self._tally.errors += 1
            if not self._stream:
                at = data.lower().find(b"content-length:")
                self._left = int(data[at + 15 : at + 30].split(b"\r\n", 1)[0]) - (len(data) - end - 4)
            else:
                self._left = 1
        elif not self._stream:
            self._left -= len(data)
        if self._stream:
            self._tally.chunks += data.count(b"data: {")
            if data.endswith(b"0\r\n\r\n"):
                self._left = 0
        if self._left == 0:
            self._tally.requests += 1
            self._tally.latencies.append(time.perf_counter() - self._sent_at)
            if self._running.is_set():
                self._send()
            else:
                self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.idle.done():
            self._tally.errors += 1
        self._finish()

    def _finish(self) -> None:
        if not self.idle.done():
            self.idle.set_result(None)
        if self._transport is not None:
            self._transport.close()


async def run(plan: Plan) -> dict[str, object]:
    """Drive the load; the figures are of the whole run, its draining included."""
    loop = asyncio.get_running_loop()
    parts = urlsplit(plan.url)
    tally, running = Tally(), asyncio.Event()
    running.set()
    request = plan.request()
    connections = []
    begun = time.perf_counter()
    for _ in range(plan.concurrency):
        _, connection = await loop.create_connection(lambda: Connection(request, plan.stream, tally, running), parts.hostname, parts.port)
        connections.append(connection)
    await asyncio.sleep(plan.seconds)
    running.clear()
    await asyncio.wait([connection.idle for connection in connections], timeout=30)
    took = time.perf_counter() - begun
    usage = resource.getrusage(resource.RUSAGE_SELF)
    ordered = sorted(tally.latencies) or [0.0]
    return {
        "requests": tally.requests,
        "chunks": tally.chunks,
        "errors": tally.errors,
        "seconds": took,
        "p50_us": ordered[len(ordered) // 2] * 1e6,
        "p99_us": ordered[int(len(ordered) * 0.99)] * 1e6,
        "generator_cpu_s": usage.ru_utime + usage.ru_stime,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--model", default="mock")
    parser.add_argument("--prompt-bytes", type=int, default=1000)
    parser.add_argument("--key", default="")
    print(json.dumps(uvloop.run(run(Plan(**vars(parser.parse_args()))))))


if __name__ == "__main__":
    main()
