"""uvicorn on a socket that is there already, within a process that has its own mind about signals and logs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette

CONNECTIONS_MAX = 128
KEEP_ALIVE_S = 5
SHUTDOWN_S = 2


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Site:
    """One application on one listening socket."""

    def __init__(self, app: Starlette, listener: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
        self._server = _Server(config)
        self._listener = listener
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to serve; what is queued on the socket already is served too."""
        self._task = asyncio.get_running_loop().create_task(self._server.serve([self._listener]), name="admin site")

    async def close(self) -> None:
        """Finish the requests under way, for a bounded time, and stop."""
        if self._task is not None:
            self._server.should_exit = True
            await self._task
