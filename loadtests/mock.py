"""A mock vLLM that costs much less than any gateway: it looks for the end of a request and answers with constant bytes.

`python -m loadtests.mock --port 9000 [--chunks 128] [--interval-ms 10]`: streams where the body says `"stream":true` (or with a
space), else one chat completion of about 1 KB. `GET /mode/NAME` sets how streams come: `plain` (an event a beat), `burst` (16 events
in one write, every 16th beat), `scored` (an event a beat with its token's log-probability), `logprobs` (with five likeliest tokens, too,
651 B), `held` (one event of content, and no other until the mode changes), `holding` (16 with their tokens' log-probabilities, and no
other). `GET /count` tells what it has answered, as JSON: requests,
events of content, connections ever accepted, microseconds of CPU.

Every event carries when it was written, in microseconds of the machine's monotonic clock, as its content: `@0001763735000000`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import cast

import uvloop

WORDS = "the parcel was sent to the old address and comes back, so we send it again at no cost to you "
USAGE = b'{"prompt_tokens":300,"total_tokens":428,"completion_tokens":128}'
IDENTITY = b'{"id":"chatcmpl-0123456789abcdef","object":"chat.completion%s","created":1795168569,"model":"mock",'
STAMP = b"@%016d"
BURST = 16
MODES = ("plain", "burst", "logprobs", "scored", "held", "holding")
OPENINGS = {"held": ("plain", 1), "holding": ("scored", BURST)}
"""Modes in which a stream begins at once and then stands still: what its events are, and how many."""
PROBES = {
    b"/health": b"{}",
    b"/v1/models": b'{"object":"list","data":[{"id":"mock","object":"model","created":1,"owned_by":"mock"}]}',
    b"/get_server_info": b'{"model_path":"mock","served_model_name":"mock"}',
    b"/server_info": b'{"model_path":"mock","served_model_name":"mock"}',
    b"/get_model_info": b'{"model_path":"mock","is_generation":true}',
    b"/model_info": b'{"model_path":"mock","is_generation":true}',
}
"""What routers ask before they send anything here."""


def answer(body: bytes, kind: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (kind, len(body), body)


def whole_answer() -> bytes:
    content = json.dumps((WORDS * 8)[:700]).encode()
    return answer(
        IDENTITY % b""
        + b'"choices":[{"index":0,"message":{"role":"assistant","content":%s,"refusal":null},"logprobs":null,"finish_reason":"stop",'
        % content
        + b'"stop_reason":null}],"usage":%s,"prompt_logprobs":null}' % USAGE
    )


def frame(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(choice: bytes) -> bytes:
    return b"data: " + IDENTITY % b".chunk" + choice + b"}\n\n"


def likeliest(token: bytes, number: int) -> bytes:
    """The logprobs of one token with so many likeliest ones, as vLLM words them."""
    five = b",".join(b'{"token":" w%d","logprob":-%d.25,"bytes":[32,119]}' % (each, each) for each in range(number))
    return b'{"content":[{"token":"%s","logprob":-0.125,"bytes":[64,48],"top_logprobs":[%s]}]}' % (token, five)


class Answers:
    """Every byte the mock can send, made once."""

    def __init__(self) -> None:
        token = STAMP % 0
        choice = b'"choices":[{"index":0,"delta":{"content":"%s"},"logprobs":%s,"finish_reason":null,"token_ids":null}]'
        role = b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        finish = b'"choices":[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop","stop_reason":null}]'
        self.whole = whole_answer()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        self.first = head + frame(event(role))
        self.chunk = frame(event(choice % (token, b"null")))
        with_logprobs, scored = (frame(event(choice % (token, likeliest(b" parcel", number)))) for number in (5, 0))
        end = frame(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        self.last = frame(event(finish)) + end
        self.last_with_usage = frame(event(finish)) + frame(event(b'"choices":[],"usage":' + USAGE)) + end
        self._beats = {}
        for mode, beat in (("plain", self.chunk), ("logprobs", with_logprobs), ("scored", scored)):
            before, _, after = beat.partition(token)
            self._beats[mode] = before, after

    def stamped(self, mode: str) -> bytes:
        """One beat's bytes, the same for every stream."""
        before, after = self._beats.get(mode, self._beats["plain"])
        made = before + STAMP % (time.monotonic_ns() // 1000) + after
        return made * BURST if mode == "burst" else made


class Mock(asyncio.Protocol):
    """One connection; requests come one at a time."""

    def __init__(self, server: MockServer) -> None:
        self._server = server
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self.left = 0
        self.usage = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._server.connections += 1
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.streams.pop(self, None)
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
        if at < 0 and b"\ntransfer-encoding:" in head:
            body, length = unchunk(data[end + 4 :])
            if length < 0:
                self._buffer = data
                return
        elif len(data) < end + 4 + length:
            self._buffer = data
            return
        else:
            body = data[end + 4 : end + 4 + length]
        self._buffer = data[end + 4 + length :]
        self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        if head.startswith(b"get "):
            self._transport.write(self._server.control(head.split(b" ", 2)[1]))
            return
        self._server.answered += 1
        if b'"stream":true' in body or b'"stream": true' in body:
            self.left = self._server.chunks
            self.usage = b'"include_usage":true' in body or b'"include_usage": true' in body
            self._transport.write(self._server.answers.first)
            self._server.streams[self] = None
            if opening := OPENINGS.get(self._server.mode):
                mode, events = opening
                self.tick(self._server.answers.stamped(mode) * events, events)
        else:
            self._transport.write(self._server.answers.whole)

    def tick(self, beat: bytes, events: int) -> None:
        """Send what is due of the stream."""
        if self._transport is None:
            return
        self._server.events += events
        self.left -= events
        if self.left > 0:
            self._transport.write(beat)
        else:
            del self._server.streams[self]
            answers = self._server.answers
            self._transport.write(beat + (answers.last_with_usage if self.usage else answers.last))


def unchunk(data: bytes) -> tuple[bytes, int]:
    """A chunked body and how many bytes it took; -1 where it is not whole."""
    body, at = b"", 0
    while (line := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line], 16)
        if len(data) < line + 4 + size:
            break
        body, at = body + data[line + 2 : line + 2 + size], line + 4 + size
        if size == 0:
            return body, at
    return b"", -1


class MockServer:
    def __init__(self, chunks: int, interval_s: float) -> None:
        self.chunks = chunks
        self.interval_s = interval_s
        self.answers = Answers()
        self.mode = "plain"
        self.answered = 0
        self.events = 0
        self.connections = 0
        self.streams: dict[Mock, None] = {}

    def control(self, path: bytes) -> bytes:
        if path == b"/count":
            counts = self.answered, self.events, self.connections, time.process_time_ns() // 1000
            return answer(b'{"requests":%d,"events":%d,"connections":%d,"cpu_us":%d}' % counts)
        mode = path.removeprefix(b"/mode/").decode()
        if mode in MODES:
            self.mode = mode
            return answer(b"{}")
        found = PROBES.get(path)
        return answer(found) if found else b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"

    async def tick(self) -> None:
        """One clock for all streams: each gets an event at every beat, or a burst at every sixteenth."""
        loop = asyncio.get_running_loop()
        due, beats = loop.time(), 0
        while True:
            due = max(due + self.interval_s, loop.time())
            await asyncio.sleep(due - loop.time())
            beats += 1
            mode = self.mode
            if mode in OPENINGS or (mode == "burst" and beats % BURST):
                continue
            beat, events = self.answers.stamped(mode), BURST if mode == "burst" else 1
            for stream in list(self.streams):
                stream.tick(beat, events)


async def serve(port: int, chunks: int, interval_s: float) -> None:
    server = MockServer(chunks, interval_s)
    await asyncio.get_running_loop().create_server(lambda: Mock(server), "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    await server.tick()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--chunks", type=int, default=128)
    parser.add_argument("--interval-ms", type=float, default=10)
    args = parser.parse_args()
    uvloop.run(serve(args.port, args.chunks, args.interval_ms / 1000))


if __name__ == "__main__":
    main()
