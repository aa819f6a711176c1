"""The shipped models, loaded once, and the real process that serves them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from gateway.embedded.engine import Library, load_library


@pytest.fixture(scope="session")
def library() -> Library:
    return load_library()


@pytest.fixture(scope="session")
def base_url() -> Iterator[str]:
    """A running `python -m gateway.embedded` on an inherited socket, as the supervisor starts it."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    listener.set_inheritable(True)
    command = [sys.executable, "-m", "gateway.embedded", "--fd", str(listener.fileno())]
    process = subprocess.Popen(command, pass_fds=[listener.fileno()], env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    try:
        _wait_until_healthy(url)
        yield url
    finally:
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM, "uvicorn ends by the signal it was sent, once it has drained"


def _wait_until_healthy(url: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, "the embedded models did not come up"
        time.sleep(0.05)


@pytest.fixture
def http(base_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base_url, timeout=30) as client:
        yield client
