"""The process: sockets and uvicorn around the application."""

from __future__ import annotations

import socket

import uvicorn

from gateway.embedded.engine import load_library
from gateway.embedded.server import build_app

BACKLOG = 1024
SHUTDOWN_SECONDS_MAX = 5


def serve(*, fd: int | None, port: int | None) -> None:
    """Serve on an inherited listening socket, or on a loopback port (0: a free one, printed)."""
    if fd is not None:
        listener = socket.socket(fileno=fd)
    else:
        listener = socket.create_server(("127.0.0.1", port or 0), backlog=BACKLOG)
        print(f"embedded models on http://127.0.0.1:{listener.getsockname()[1]}/v1", flush=True)
    config = uvicorn.Config(
        build_app(load_library()),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS_MAX,
        backlog=BACKLOG,
    )
    uvicorn.Server(config).run(sockets=[listener])
