"""What the wire costs in the interpreter: server and client connection on fake transports, no system call.

One request: the server connection reads it, the handler passes it to a pool with an idle connection, the response is read and
answered. One chunk: the client connection reads it and writes it to the reply. Prints JSON; the median of several rounds.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any, cast

from gateway.wire.base import ClientLimits, Reply, ServerLimits, WireFailure
from gateway.wire.client_connection import ClientConnection
from gateway.wire.fake import FakeLoop, FakeTransport
from gateway.wire.pool import Pool
from gateway.wire.request import Request
from gateway.wire.server import Server
from gateway.wire.ticker import Ticker

BODY = b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * 1130 + b'"}]}'
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
    b"Authorization: Bearer sk-0123456789abcdef0123456789abcdef\r\nUser-Agent: load/1.0\r\nContent-Length: %d\r\n\r\n" % len(BODY)
) + BODY
RESPONSE_HEAD = b"HTTP/1.1 200 OK\r\ndate: Thu, 20 Nov 2025 10:00:00 GMT\r\nserver: uvicorn\r\n"
ANSWER = RESPONSE_HEAD + b"content-type: application/json\r\ncontent-length: 1024\r\n\r\n" + b"y" * 1024
STREAM_HEAD = RESPONSE_HEAD + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b"data: " + b"z" * 239 + b"\n\n"
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
UPSTREAM_HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:8000\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n" % len(BODY)
)
HEADERS = b"content-type: application/json\r\n"


class NullTransport(FakeTransport):
    """Counts writes and keeps nothing, so that the figure is the connection's."""

    writes_made = 0
    last: bytes | bytearray | memoryview = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes_made += 1
        self.last = data


class Relay:
    """The least that a gateway can do between a reply and a response."""

    __slots__ = ("reply", "status")

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.status = 0

    def response_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status
        if b"content-length" not in headers:
            self.reply.start(status, HEADERS)

    def response_body(self, data: bytes) -> None:
        if self.reply.started:
            self.reply.write(data)
        else:
            self.reply.send(self.status, HEADERS, data)

    def response_end(self) -> None:
        self.reply.end()

    def response_failed(self, failure: WireFailure) -> None:
        raise AssertionError(failure)


def measure(requests: int, chunks: int, rounds: int) -> dict[str, Any]:
    loop = cast(Any, FakeLoop())
    ticker = Ticker(loop)
    pool = Pool("127.0.0.1", 8000, limits=ClientLimits(), loop=loop, ticker=ticker)
    upstream = ClientConnection(pool)
    upstream.connection_made(NullTransport())
    pool.put_back(upstream)

    def handler(request: Request, reply: Reply) -> None:
        pool.request((UPSTREAM_HEAD, request.body), Relay(reply), connect_timeout_s=1.0)

    server = Server(handler, ServerLimits(), ticker, render_error=lambda status, message: (b"", b""))
    client = server.factory()
    client.connection_made(NullTransport())

    def one_request() -> None:
        client.data_received(REQUEST)
        upstream.data_received(ANSWER)

    per_request, per_chunk = [], []
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(requests):
            one_request()
        per_request.append((time.perf_counter() - begun) / requests * 1e6)
        client.data_received(REQUEST)
        upstream.data_received(STREAM_HEAD)
        begun = time.perf_counter()
        for _ in range(chunks):
            upstream.data_received(CHUNK)
        per_chunk.append((time.perf_counter() - begun) / chunks * 1e6)
        upstream.data_received(b"0\r\n\r\n")
    return {
        "us_per_request": round(statistics.median(per_request), 2),
        "us_per_request_best": round(min(per_request), 2),
        "us_per_chunk": round(statistics.median(per_chunk), 3),
        "us_per_chunk_best": round(min(per_chunk), 3),
        "rounds": rounds,
        "python": sys.version.split()[0],
    }


if __name__ == "__main__":
    print(json.dumps(measure(requests=1_000, chunks=5_000, rounds=100)))
