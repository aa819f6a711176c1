"""Clients that ask one request after another, byte by byte aware of how each answer ended."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec

from loadtests.chaos.backend import PIECES

PATIENCE_S = 30.0
"""What a client waits for its whole answer: longer than any deadline of the gateway under test."""
RECONNECT_S = 0.02

Verdict: TypeAlias = Literal["whole", "error", "error_in_stream", "turned_away", "lost", "silent", "wrong", "garbled", "hung"]
"""whole: the answer, all of it. error: a status and a body of OpenAI's shape. error_in_stream: an error event, then [DONE].
lost: the connection ended before the answer did, in a way that the client cannot miss; turned_away (found out later, from the
backends): the same before a byte came, and the request had reached no backend. silent: a stream that ended as if it were
whole, and was not. wrong: bytes of another request or generation. garbled: not HTTP or not JSON. hung: nothing in time."""


class Seen(msgspec.Struct):
    """One exchange as a client saw it."""

    tag: str
    stream: bool
    verdict: Verdict = "lost"
    detail: str = ""
    status: int = 0
    exchange_id: str = ""
    retry_after: str = ""
    kept: bool = False
    """Asked on a connection that had served before."""
    unheard: bool = True
    """Not one byte came back."""
    started: float = 0.0
    """Of time.monotonic, as `ended`."""
    ended: float = 0.0


class Client:
    """One connection at a time; `ask` opens another where it must."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, tag: str, stream: bool, *, give_up: Callable[[], bool]) -> Seen | None:
        """One request; None where no connection was had until `give_up`."""
        kept = self._writer is not None
        while self._writer is None:
            if give_up():
                return None
            try:
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=1 << 20)
            except OSError:
                await asyncio.sleep(RECONNECT_S)
        seen = Seen(tag, stream, kept=kept, started=time.monotonic())
        try:
            async with asyncio.timeout(PATIENCE_S):
                keep = await self._exchange(seen)
        except TimeoutError:
            seen.verdict, keep = "hung", False
        except (OSError, asyncio.IncompleteReadError) as error:
            seen.verdict, seen.detail, keep = "lost", f"{type(error).__name__}: {error}", False
        except (ValueError, KeyError, IndexError, TypeError, asyncio.LimitOverrunError) as error:
            seen.verdict, seen.detail, keep = "garbled", f"{type(error).__name__}: {error}", False
        seen.ended = time.monotonic()
        if not keep:
            self.close()
        return seen

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def _exchange(self, seen: Seen) -> bool:
        """Ask and read; is the connection good for another?"""
        assert self._reader is not None
        assert self._writer is not None
        body = json.dumps(
            {"model": "chat", "messages": [{"role": "user", "content": f"{seen.tag} please"}], "stream": seen.stream}
        ).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
        self._writer.write(head.encode() + b"content-length: %d\r\n\r\n%s" % (len(body), body))
        raw = await self._reader.readuntil(b"\r\n\r\n")
        seen.unheard = False
        first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        seen.status = int(first.split(" ")[1])
        seen.exchange_id = headers.get("x-headgate-exchange-id", "")
        seen.retry_after = headers.get("retry-after", "")
        if headers.get("transfer-encoding") == "chunked":
            answer = await read_chunked(self._reader)
        else:
            answer = await self._reader.readexactly(int(headers["content-length"]))
        seen.verdict, seen.detail = judge(seen, answer)
        return headers.get("connection", "") != "close"


async def read_chunked(reader: asyncio.StreamReader) -> bytes:
    """A whole chunked body; raises IncompleteReadError where its end is missing."""
    parts = []
    while True:
        size = int((await reader.readuntil(b"\r\n"))[:-2], 16)
        part = await reader.readexactly(size + 2)
        if size == 0:
            return b"".join(parts)
        parts.append(part[:-2])


def judge(seen: Seen, answer: bytes) -> tuple[Verdict, str]:
    """What a complete HTTP answer means to the client. Raises ValueError and the like for what is no JSON."""
    if seen.status != 200:
        error = json.loads(answer)["error"]
        return ("error", f"{seen.status} {error['code']}") if error["message"] and error["type"] else ("garbled", "no OpenAI error")
    if not seen.stream:
        return of_whom(seen.tag, json.loads(answer)["choices"][0]["message"]["content"])
    said, finished, error_told, done = "", False, "", False
    for block in answer.split(b"\n\n"):
        if not block or block.startswith(b":"):
            continue
        data = block.removeprefix(b"data: ")
        if data == b"[DONE]":
            done = True
            continue
        value: dict[str, Any] = json.loads(data)
        if "error" in value:
            error_told = str(value["error"]["code"])
            continue
        for choice in value["choices"]:
            said += choice["delta"].get("content") or ""
            finished = finished or bool(choice["finish_reason"])
    if error_told:
        verdict, detail = of_whom(seen.tag, said, part=True)
        return (verdict, detail) if verdict == "wrong" else ("error_in_stream", error_told) if done else ("silent", "error without [DONE]")
    return of_whom(seen.tag, said) if done and finished else ("silent", f"done {done}, finished {finished}")


def of_whom(tag: str, said: str, *, part: bool = False) -> tuple[Verdict, str]:
    """Is every piece this request's, from one generation, in order and complete?"""
    pieces = [piece.split(" ") for piece in said.split(";")[:-1]]
    if any(len(piece) != 3 or piece[0] != tag for piece in pieces) or len({piece[1] for piece in pieces if len(piece) == 3}) > 1:
        return "wrong", said[:200]
    in_order = [piece[2] for piece in pieces] == [str(place) for place in range(len(pieces))]
    return ("whole", pieces[0][1] if pieces else "") if in_order and (part or len(pieces) == PIECES) else ("wrong", said[:200])
