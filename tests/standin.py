"""A backend whose every byte a test decides: raw asyncio streams, one script a request, and a note of what it was asked."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


class Conversation:
    """One request's connection, from the backend's side."""

    def __init__(self, asked: Asked, writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        self.asked = asked
        self.writer = writer
        self.reader = reader
        self.keep = True

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def json(self, value: object, status: int = 200, headers: str = "") -> None:
        body = json.dumps(value).encode()
        await self.send(
            f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body
        )

    async def start_stream(self) -> None:
        await self.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def event(self, value: object) -> None:
        await self.chunk(b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n")

    async def end_stream(self, done: bool = True) -> None:
        if done:
            await self.chunk(b"data: [DONE]\n\n")
        await self.send(b"0\r\n\r\n")

    def reset(self) -> None:
        """Close with RST."""
        self.writer.transport.abort()
        self.keep = False

    async def until_closed(self) -> None:
        """Wait for the other side to leave."""
        while await self.reader.read(65536):
            pass
        self.keep = False


Script = Callable[[Conversation], Awaitable[None]]


def chunk(content: str | None = None, finish: str | None = None, *, role: bool = False, model: str = "m", **more: Any) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    if role:
        delta["role"] = "assistant"
    if content is not None:
        delta["content"] = content
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice], **more}


def completion(content: str = "hello", model: str = "m") -> dict[str, Any]:
    return {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


def speaks(text: str = "hello from here", *, usage: bool = True) -> Script:
    """A well-behaved backend: answers `text`, streamed word by word or whole."""

    async def script(c: Conversation) -> None:
        if not c.asked.json.get("stream"):
            answer = completion(text, c.asked.json.get("model", "m"))
            if c.asked.json.get("logprobs"):
                entry = {
                    "token": text[:1],
                    "logprob": -0.1,
                    "bytes": [],
                    "top_logprobs": [{"token": text[:1], "logprob": -0.1, "bytes": []}],
                }
                answer["choices"][0]["logprobs"] = {"content": [entry]}
            await c.json(answer)
            return
        await c.start_stream()
        await c.event(chunk("", role=True))
        for word in text.split(" "):
            await c.event(chunk(word + " "))
        await c.event(chunk("", "stop"))
        if usage and (c.asked.json.get("stream_options") or {}).get("include_usage"):
            await c.event({**chunk(), "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}})
        await c.end_stream()

    return script


def entry(word: str, logprob: float, top: int) -> dict[str, Any]:
    others = [{"token": f"{rank}", "logprob": logprob - 0.2 * rank, "bytes": None} for rank in range(top)]
    return {"token": word, "logprob": logprob, "bytes": None, "top_logprobs": others}


def scored(text: str, logprob: float, *, wait: asyncio.Event | None = None, after: int = 0) -> Script:
    """A backend that gives log-probabilities to those who ask for them, each token's the same. With `wait` it stops after so many words
    until the event is set."""

    async def script(c: Conversation) -> None:
        asked = c.asked.json
        top = asked.get("top_logprobs") or 0
        words = [f"{word} " for word in text.split(" ")]
        entries = [entry(word, logprob, top) for word in words] if asked.get("logprobs") else None
        if not asked.get("stream"):
            answer = completion("".join(words), asked["model"])
            if entries is not None:
                answer["choices"][0]["logprobs"] = {"content": entries}
            await c.json(answer)
            return
        await c.start_stream()
        await c.event(chunk("", role=True, model=asked["model"]))
        for place, word in enumerate(words):
            if wait is not None and place == after:
                left = asyncio.create_task(c.until_closed())
                done = asyncio.create_task(wait.wait())
                await asyncio.wait([left, done], return_when=asyncio.FIRST_COMPLETED)
                if left.done():
                    done.cancel()
                    return
                left.cancel()
            event = chunk(word, model=asked["model"])
            if entries is not None:
                event["choices"][0]["logprobs"] = {"content": [entries[place]]}
            await c.event(event)
        await c.event(chunk("", "stop", model=asked["model"]))
        await c.end_stream()

    return script


def fails(status: int, message: str = "boom", headers: str = "", *, param: str | None = None, code: str | None = None) -> Script:
    async def script(c: Conversation) -> None:
        await c.json({"error": {"message": message, "type": "x", "param": param, "code": code}}, status, headers)

    return script


@dataclass
class Standin:
    """A running stand-in; `script` may be replaced at any time. Probes (`ping`) are answered on their own while `probes_ok`."""

    script: Script
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    open: int = 0
    generating: int = 0
    probes_ok: bool = True
    tls: ssl.SSLContext | None = None
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and cut every connection, as a killed process does."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self._writers.add(writer)
        try:
            while (asked := await self._read(reader)) is not None:
                conversation = Conversation(asked, writer, reader)
                if b'"ping"' in asked.body:
                    if self.probes_ok:
                        await speaks("pong")(conversation)
                    else:
                        await conversation.json({"error": {"message": "not now"}}, 503)
                    continue
                self.asked.append(asked)
                self.generating += 1
                try:
                    await self.script(conversation)
                finally:
                    self.generating -= 1
                if not conversation.keep:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            self._writers.discard(writer)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Asked | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Asked(method, path, headers, body)


@asynccontextmanager
async def standin(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Standin]:
    server = Standin(script, tls=tls)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
