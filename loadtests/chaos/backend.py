"""A backend that stamps a nonce on everything it generates, and misbehaves by seed: `python -m loadtests.chaos.backend --port 9000
--journal FILE [--fault truncate --share 0.2 --seed 7]`.

The first word of the last message is the request's tag. Every piece of the answer says `TAG NONCE`, so that a client knows whose bytes
it got, and from which generation. The journal gets a line for every step, each in one write, so that it survives a kill: `start`
(generating began), `head` (bytes of an answer left), `refuse` (answered "come back later", nothing generated), `fault` (the answer was
spoilt).

What happens to a request is drawn from the seed and its tag, not from the order of requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import struct
from pathlib import Path

PIECES = 6
PIECE_S = 0.008
FAULTS = ("none", "truncate", "reset", "garbage", "slow", "refuse", "close")
SLOW_S = 2.0
"""The longest pause of a slow answer; the gateway waits 1 s."""


def event(content: str | None, finish: str | None = None) -> bytes:
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    raw = json.dumps(
        {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}, separators=(",", ":")
    )
    return framed(b"data: " + raw.encode() + b"\n\n")


def framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def completion(content: str) -> bytes:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": PIECES, "total_tokens": 7 + PIECES}
    return json.dumps({"id": "c-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}).encode()


class CutError(Exception):
    """The connection is to end here; with a reset, or in order."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__()
        self.reset = reset


class Backend:
    """One process of it."""

    def __init__(self, journal: Path, fault: str, share: float, seed: int) -> None:
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._fault = fault
        self._share = share
        self._seed = seed

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while (body := await read_request(reader)) is not None:
                await self._answer(body, writer)
                if self._fault == "close":
                    break
        except CutError as cut:
            if cut.reset:
                taken: socket.socket = writer.get_extra_info("socket")
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _note(self, step: str, tag: str, nonce: str = "-") -> None:
        os.write(self._journal, f"{step} {tag} {nonce}\n".encode())

    async def _answer(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(body)
        content = asked["messages"][-1]["content"]
        tag = content.split(" ")[0] if isinstance(content, str) else "?"
        chance = random.Random(f"{self._seed}:{tag}")
        fault = self._fault if tag != "ping" and chance.random() < self._share else "none"
        if fault == "refuse":
            self._note("refuse", tag)
            status = chance.choice(("429 Too Many Requests", "503 Service Unavailable"))
            error = b'{"error":{"message":"come back later","type":"x","param":null,"code":null}}'
            head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nretry-after: 0\r\ncontent-length: {len(error)}\r\n\r\n"
            writer.write(head.encode() + error)
            return
        nonce = os.urandom(6).hex()
        self._note("start", tag, nonce)
        pieces = stream(tag, nonce) if asked.get("stream") else whole(tag, nonce)
        await self._play(pieces, fault, chance, writer, tag, nonce)

    async def _play(
        self, pieces: list[bytes], fault: str, chance: random.Random, writer: asyncio.StreamWriter, tag: str, nonce: str
    ) -> None:
        """Send the pieces, and let the fault happen before one of them."""
        happens_at = chance.randrange(0 if fault in ("reset", "garbage", "slow") else 1, len(pieces))
        for place, piece in enumerate(pieces):
            sent = piece
            if place == happens_at and fault in ("truncate", "reset", "garbage", "slow"):
                self._note("fault", tag, nonce)
            if place == happens_at and fault in ("truncate", "reset"):
                if chance.random() < 0.5 and place:
                    writer.write(piece[: len(piece) // 2])
                raise CutError(reset=fault == "reset")
            if place == happens_at and fault == "garbage":
                sent = chance.randbytes(chance.randrange(20, 400))
            if place == happens_at and fault == "slow":
                await asyncio.sleep(chance.uniform(0.1, SLOW_S))
            if place == 0:
                self._note("head", tag, nonce)
            writer.write(sent)
            await writer.drain()
            await asyncio.sleep(PIECE_S)
        if fault == "garbage":
            raise CutError(reset=False)


def stream(tag: str, nonce: str) -> list[bytes]:
    """A chunked answer in pieces; the last one ends it."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    said = [event(f"{tag} {nonce} {place};") for place in range(PIECES)]
    return [head + said[0], *said[1:], event(None, "stop") + framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"]


def whole(tag: str, nonce: str) -> list[bytes]:
    """One answer in pieces."""
    body = completion("".join(f"{tag} {nonce} {place};" for place in range(PIECES)))
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    return [head, body[:80], body[80:]]


async def read_request(reader: asyncio.StreamReader) -> bytes | None:
    """The body of the next request; None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    return await reader.readexactly(int(lines.get(b"content-length", b"0")))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--fault", choices=FAULTS, default="none")
    parser.add_argument("--share", type=float, default=0.0, help="of requests that the fault happens to")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    backend = Backend(args.journal, args.fault, args.share, args.seed)
    server = await asyncio.start_server(backend.serve, "127.0.0.1", args.port, backlog=1024)
    print("ready", flush=True)
    async with server:
        with contextlib.suppress(asyncio.CancelledError):
            await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
