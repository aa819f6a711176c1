"""A stand-in in a process of its own, so that it can be killed and stopped: `python -m tests.e2e.backend_process PORT`.

It prints its port, and says it in every answer (`from 12345 ...`), which takes about 0.1 s.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.standin import Conversation, Standin, chunk, completion

WORDS = 10
WORD_S = 0.01


async def serve(port: int) -> None:
    async def script(c: Conversation) -> None:
        words = [f"from {server.port}", *(["word"] * WORDS)]
        if not c.asked.json.get("stream"):
            await asyncio.sleep(WORD_S * WORDS)
            await c.json(completion(" ".join(words)))
            return
        await asyncio.sleep(WORD_S)
        await c.start_stream()
        for word in words:
            await c.event(chunk(f"{word} "))
            await asyncio.sleep(WORD_S)
        await c.event(chunk("", "stop"))
        await c.end_stream()

    server = Standin(script, port)
    await server.start()
    print(server.port, flush=True)
    await asyncio.Event().wait()


class BackendProcess:
    """One of them, from outside. It can be started again on its port."""

    def __init__(self) -> None:
        self.port = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.e2e.backend_process", str(self.port), stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.port = int(await asyncio.wait_for(self._process.stdout.readline(), 20))

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self.signal(signal.SIGKILL)
            await self._process.wait()


@asynccontextmanager
async def backend_process() -> AsyncIterator[BackendProcess]:
    backend = BackendProcess()
    await backend.start()
    try:
        yield backend
    finally:
        await backend.kill()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
