"""Starts a real gateway (supervisor, controller, workers) on a policy, and stops it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from gateway.link.messages import ExchangeRecord

DECODER = msgspec.msgpack.Decoder(ExchangeRecord)
START_S = 40.0
ADMIN_KEY = "hg-admin-key-of-the-tests"


class Gateway:
    """A running gateway. `data`, `admin` and `metrics` are its URLs."""

    def __init__(self, process: asyncio.subprocess.Process, policy: Path, state: Path) -> None:
        self.process = process
        self.policy = policy
        self.state = state
        self.log: list[str] = []
        self.data = self.admin = self.metrics = ""
        self._ready = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for raw in self.process.stderr:
            line = raw.decode(errors="replace").rstrip()
            self.log.append(line)
            for name, attribute in (("base_url", "data"), ("admin", "admin"), ("metrics", "metrics")):
                if match := re.match(rf"\s+{name}\s+(\S+)", line) or re.search(rf'"event":"Headgate is ready".*"{name}":"([^"]+)"', line):
                    setattr(self, attribute, match[1].removesuffix("/v1").removesuffix("/metrics"))
            if self.data and self.admin and self.metrics:
                self._ready.set()
        self._ready.set()

    async def wait_ready(self) -> None:
        async with asyncio.timeout(START_S):
            await self._ready.wait()
        if not self.metrics:
            raise AssertionError("the gateway did not start:\n" + "\n".join(self.log))

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(base_url=self.data, headers=headers, timeout=30)

    async def ask_admin(self, path: str, method: str = "GET") -> Any:
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        async with httpx.AsyncClient(base_url=self.admin, headers=headers, timeout=60, verify=False) as client:
            answer = await client.request(method, path)
        answer.raise_for_status()
        return answer.json()

    async def scrape(self) -> dict[str, float]:
        """Every sample of the metrics listener, `name{label="value",...}` (labels sorted) to value."""
        async with httpx.AsyncClient(base_url=self.metrics, timeout=30, verify=False) as client:
            text = (await client.get("/metrics")).text
        samples = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {sort_labels(name): float(value) for name, _, value in samples}

    async def metric(self, name: str, expected: float) -> None:
        """Wait until a sample has this value: the workers report about once a second."""

        async def look() -> bool:
            return (await self.scrape()).get(name, 0.0) == expected

        try:
            await eventually(look)
        except TimeoutError:
            raise AssertionError(f"{name} is not {expected} in {await self.scrape()}") from None

    def pids(self, role: str) -> list[int]:
        """Processes below the supervisor whose command has `role` (worker, controller, embedded)."""
        found = []
        for each in children(self.process.pid):
            with contextlib.suppress(OSError):
                if f"gateway.{role}" in Path(f"/proc/{each}/cmdline").read_text():
                    found.append(each)
        return found

    async def exchange(self, exchange_id: str) -> dict[str, Any]:
        """The record of an exchange, once it is stored."""

        async def look() -> dict[str, Any] | None:
            try:
                record = await self.ask_admin(f"/exchanges/{exchange_id}")
            except httpx.HTTPStatusError:
                return None
            assert isinstance(record, dict)
            return record

        found = await eventually(look)
        assert isinstance(found, dict)
        return found

    async def wait_pids(self, role: str, *, other_than: list[int]) -> list[int]:
        """The processes of a role once as many as there were are there anew."""

        async def look() -> list[int]:
            found = self.pids(role)
            return found if len(found) == len(other_than) and found != other_than else []

        found = await eventually(look, 30)
        assert isinstance(found, list)
        return found

    async def count(self, name: str) -> float:
        """A metric, summed over its labels."""
        return sum(value for sample, value in (await self.scrape()).items() if sample.partition("{")[0] == name)

    def stored(self) -> list[ExchangeRecord]:
        """Every record in the store, in the order of storing; the gateway need not run."""
        with contextlib.closing(sqlite3.connect(f"file:{self.state}/records.sqlite?mode=ro", uri=True)) as store:
            return [DECODER.decode(body) for (body,) in store.execute("SELECT body FROM records ORDER BY id")]

    async def until_stored(self, exchange_ids: Collection[str], timeout_s: float = 15.0) -> None:
        """Wait until these are in the store, each once."""

        async def look() -> bool:
            return set(exchange_ids) <= {record.exchange_id for record in self.stored()}

        try:
            await eventually(look, timeout_s)
        except TimeoutError:
            stored = {record.exchange_id for record in self.stored()}
            raise AssertionError(f"{len(set(exchange_ids) - stored)} of {len(exchange_ids)} records are not stored") from None

    async def write_policy(self, text: str) -> None:
        """Put a policy where the gateway looks, as editors do: whole or not at all."""
        draft = self.policy.with_suffix(".new")
        draft.write_text(text)
        draft.rename(self.policy)

    async def gone(self, timeout_s: float = 30.0) -> int:
        """Wait for the supervisor and everything it has started (they share its stderr); its exit code."""
        async with asyncio.timeout(timeout_s):
            await asyncio.shield(self._reader)
            return await self.process.wait()

    async def stop(self) -> int:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), 40)
            except TimeoutError:
                self.process.kill()
                raise
        await self._reader
        assert self.process.returncode is not None
        return self.process.returncode


def sort_labels(sample: str) -> str:
    name, brace, labels = sample.partition("{")
    return name + brace + ",".join(sorted(labels.removesuffix("}").split(","))) + "}" if brace else name


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


async def eventually(look: Any, timeout_s: float = 10.0) -> Any:
    """What `look` (awaitable) returns once it is true; for what other processes do in their own time."""
    async with asyncio.timeout(timeout_s):
        while not (found := await look()):
            await asyncio.sleep(0.05)
        return found


@asynccontextmanager
async def gateway(
    policy: str,
    *options: str,
    environment: dict[str, str] | None = None,
    check: bool = True,
    files: Mapping[str, str | bytes] | None = None,
    folder: str | None = None,
) -> AsyncIterator[Gateway]:
    """A gateway on this policy text, on free ports, in a folder of its own with these files beside the policy; or in `folder`, where
    another may have run before."""
    with contextlib.ExitStack() as stack:
        folder = folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="headgate-test-"))
        path = Path(folder, "policy.yaml")
        path.write_text(policy)
        for name, text in (files or {}).items():
            Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, name).write_bytes(text.encode() if isinstance(text, str) else text)
        argv = [sys.executable, "-m", "gateway.cli.main", "serve", str(path), "--port", "0", "--admin-port", "0", "--metrics-port", "0"]
        argv += ["--state-dir", f"{folder}/state", "--admin-key", ADMIN_KEY, *options]
        process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE, env={**os.environ, **(environment or {})})
        running = Gateway(process, path, Path(folder, "state"))
        try:
            await running.wait_ready()
            yield running
        except BaseException:
            print("\n".join(running.log[-60:]), file=sys.stderr)
            raise
        finally:
            code = await running.stop()
        if check:
            assert code == 0, "\n".join(running.log[-60:])


def chat(model: str = "chat", content: str = "hello there", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


def events(raw: bytes) -> list[Any]:
    """The data of an SSE body, JSON where it is."""
    found: list[Any] = []
    for block in raw.replace(b"\r\n", b"\n").split(b"\n\n"):
        for line in block.split(b"\n"):
            if line.startswith(b"data: "):
                text = line[6:].decode()
                found.append(text if text == "[DONE]" else json.loads(text))
    return found


def said(raw: bytes) -> str:
    """The content of a streamed chat completion."""
    parts = []
    for event in events(raw):
        if isinstance(event, dict):
            for choice in event.get("choices") or []:
                parts.append((choice.get("delta") or {}).get("content") or "")
    return "".join(parts)
