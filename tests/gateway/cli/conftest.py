"""What the tests of the commands share: policies on disk, and a stand-in for the admin API."""

from __future__ import annotations

import json
import logging
import signal
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

POLICY = """\
version: 1
backends:
  - {name: small, kind: vllm, replicas: [http://127.0.0.1:8000], model: my-model}
  - {name: big, kind: openai, replicas: [http://127.0.0.1:8001], model: big}
segments: [{name: tenant, from: "key:tenant", values: [acme]}]
routes:
  - {name: gold, matches: [{models: [chat], headers: {x-tier: [gold]}}], backend: big}
  - {name: chat, matches: [{models: [other]}, {models: [chat]}], failover: [small, big], segments: [tenant], unit: [key]}
  - {name: big-only, matches: [{models: [big]}], backend: big}
keys:
  - {name: acme, sha256: "${file:acme.sha256}", labels: {tenant: acme}, routes: [gold, chat]}
server: {drain: 7s}
"""


@pytest.fixture(autouse=True)
def own_state_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No test reads or writes the user's own files, or is swayed by the environment. A short path: it holds a Unix socket."""
    for name in ("HEADGATE_POLICY", "HEADGATE_HOST", "HEADGATE_PORT", "HEADGATE_ADMIN_KEY", "HEADGATE_ADMIN_URL"):
        monkeypatch.delenv(name, raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with tempfile.TemporaryDirectory(prefix="hg-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("XDG_STATE_HOME", folder)
        yield Path(folder)
    root.handlers[:] = handlers  # `serve` sends the logs of its process to a stderr that is gone with the test
    root.setLevel(level)


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """`serve` says what its process does with a signal."""
    before = signal.getsignal(signal.SIGUSR2)
    yield
    signal.signal(signal.SIGUSR2, before)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / "acme.sha256").write_text("ab" * 32)
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


class Admin:
    """Answers the admin API with what it was given, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.headers: dict[str, str] = {}
        admin = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                admin.asked.append((self.command, self.path, self.headers.get("authorization", "")))
                status, value = admin.answers.get(f"{self.command} {self.path}", (404, {"error": {"message": "no such thing"}}))
                body = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                for header in admin.headers.items():
                    self.send_header(*header)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Admin]:
    stand_in = Admin()
    monkeypatch.setenv("HEADGATE_ADMIN_URL", stand_in.url)
    yield stand_in
    stand_in.close()
