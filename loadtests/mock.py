"""A mock vLLM that costs much less than any gateway: it looks for the end of a request and answers with constant bytes.

`python -m loadtests.mock --port 9000 [--chunks 128] [--interval-ms 10]`: streams where the body says `"stream":true` (or with a
space), else one chat completion of about 1 KB. `GET /count` tells how many requests it has answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import cast

import uvloop

WORDS = "the parcel was sent to the old address and comes back, so we send it again at no cost to you "
USAGE = b'{"prompt_tokens":300,"total_tokens":428,"completion_tokens":128}'
IDENTITY = b'{"id":"chatcmpl-0123456789abcdef","object":"chat.completion%s","created":1795168569,"model":"mock",'


def whole_answer() -> bytes:
    content = json.dumps((WORDS * 8)[:700]).encode()
    body = (
        IDENTITY % b""
        + b'"choices":[{"index":0,"message":{"role":"assistant","content":%s,"refusal":null},"logprobs":null,"finish_reason":"stop",'
        % content
        + b'"stop_reason":null}],"usage":%s,"prompt_logprobs":null}' % USAGE
    )
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def frame(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(choice: bytes) -> bytes:
    return b"data: " + IDENTITY % b".chunk" + choice + b"}\n\n"


class Answers:
    """Every byte the mock can send, made once."""

    def __init__(self) -> None:
        delta = b'"choices":[{"index":0,"delta":{"content":" parcels"},"logprobs":null,"finish_reason":null,"token_ids":null}]'
        role = b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        finish = b'"choices":[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop","stop_reason":null}]'
        self.whole = whole_answer()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        self.first = head + frame(event(role))
        self.chunk = frame(event(delta))
        end = frame(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        self.last = frame(event(finish)) + end
        self.last_with_usage = frame(event(finish)) + frame(event(b'"choices":[],"usage":' + USAGE)) + end


class Mock(asyncio.Protocol):
    """One connection; requests come one at a time."""

    def __init__(self, server: MockServer) -> None:
        self._server = server
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self.left = 0
        self.usage = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.streams.discard(self)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._buffer = data
            return
        head = data[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(data) < end + 4 + length:
            self._buffer = data
            return
        self._buffer = data[end + 4 + length :]
        self._answer(head, data[end + 4 : end + 4 + length])

    def _answer(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        if head.startswith(b"get /count"):
            text = b"%d" % self._server.answered
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text))
            return
        self._server.answered += 1
        tail = body[-400:]
        if b'"stream":true' in tail or b'"stream": true' in tail:
            self.left = self._server.chunks
            self.usage = b'"include_usage":true' in tail
            self._transport.write(self._server.answers.first)
            self._server.streams.add(self)
        else:
            self._transport.write(self._server.answers.whole)

    def tick(self) -> None:
        """Send the next chunk of the stream."""
        if self._transport is None:
            return
        self.left -= 1
        if self.left > 0:
            self._transport.write(self._server.answers.chunk)
        else:
            self._server.streams.discard(self)
            answers = self._server.answers
            self._transport.write(answers.last_with_usage if self.usage else answers.last)


class MockServer:
    def __init__(self, chunks: int, interval_s: float) -> None:
        self.chunks = chunks
        self.interval_s = interval_s
        self.answers = Answers()
        self.answered = 0
        self.streams: set[Mock] = set()

    async def tick(self) -> None:
        """One clock for all streams: each gets a chunk at every beat."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + self.interval_s, loop.time())
            await asyncio.sleep(due - loop.time())
            for stream in list(self.streams):
                stream.tick()


async def serve(port: int, chunks: int, interval_s: float) -> None:
    server = MockServer(chunks, interval_s)
    await asyncio.get_running_loop().create_server(lambda: Mock(server), "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    await server.tick()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--chunks", type=int, default=128)
    parser.add_argument("--interval-ms", type=float, default=10)
    args = parser.parse_args()
    uvloop.run(serve(args.port, args.chunks, args.interval_ms / 1000))


if __name__ == "__main__":
    main()
