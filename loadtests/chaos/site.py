"""A gateway with two backends behind it, all processes of their own, which faults are done to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from loadtests.processes import free_port
from tests.e2e.gateway import ADMIN_KEY, Gateway

INJECT = Path(__file__).parent / "inject"
POLICY = """
version: 1
server: {{drain: {drain_s}s}}
backends:
  - name: both
    kind: openai
    replicas: ["http://{first}:{first_port}", "http://{second}:{second_port}"]
    model: m
    timeouts: {{connect: 1s, first_token: 1s, between_tokens: 1s, total: 8s}}
    retries: {{attempts: 2, retry_on: [connect, "429", "503"], backoff: 10ms, budget_percent: 50}}
    breaker: {{failures: 5, open_for: 200ms}}
    readiness: {{every: 1h}}
    concurrency: {concurrency}
routes:
  - {{name: main, matches: [{{models: [chat]}}], backend: both}}
records: {{content: {{store: {content}}}}}
"""


class Setup(msgspec.Struct, frozen=True):
    """How a site is made, for one fault."""

    workers: int = 1
    fault: str = "none"
    """The first backend's, done to `share` of its requests; `both_backends` does it to the other, too."""
    share: float = 0.0
    both_backends: bool = False
    names: tuple[str, str] = ("127.0.0.1", "127.0.0.1")
    concurrency: str = "{}"
    content: bool = False
    """Whether records keep what was said."""
    prefix: tuple[str, ...] = ()
    """Command that the gateway is started by."""
    environment: dict[str, str] = {}
    tmpfs: bool = False
    """The state folder is a file system of its own."""


class BackendProcess:
    """One backend, from outside; it can be killed, stopped, and started again on its port."""

    def __init__(self, journal: Path, fault: str, share: float, seed: int) -> None:
        self.port = free_port()
        self._argv = ["--port", str(self.port), "--journal", str(journal), "--fault", fault, "--share", str(share), "--seed", str(seed)]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "loadtests.chaos.backend", *self._argv, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        await asyncio.wait_for(self._process.stdout.readline(), 30)

    def signal(self, number: int) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self.signal(signal.SIGKILL)
            await self._process.wait()


class Site:
    """`gateway` is the one that runs now: `start_gateway` makes another on the same port and state."""

    def __init__(self, folder: Path, setup: Setup, seed: int) -> None:
        self.folder = folder
        self.setup = setup
        self.port = free_port()
        self.journal = folder / "journal"
        self.state = folder / "state"
        self.acknowledged: set[str] = set()
        """Exchange ids that the admin API has shown as stored."""
        shares = (setup.share, setup.share if setup.both_backends else 0.0)
        self.backends = [BackendProcess(self.journal, setup.fault, share, seed + place) for place, share in enumerate(shares)]
        self.gateway: Gateway | None = None

    def policy(self, drain_s: int = 10) -> str:
        """Its text; another `drain_s` makes it another policy."""
        first, second = self.setup.names
        return POLICY.format(
            drain_s=drain_s,
            first=first,
            second=second,
            first_port=self.backends[0].port,
            second_port=self.backends[1].port,
            concurrency=self.setup.concurrency,
            content=str(self.setup.content).lower(),
        )

    async def start_gateway(self) -> Gateway:
        policy = self.folder / "policy.yaml"
        policy.write_text(self.policy())
        argv = [*self.setup.prefix, sys.executable, "-m", "gateway.cli.main", "serve", str(policy), "--port", str(self.port)]
        argv += ["--admin-port", "0", "--metrics-port", "0", "--admin-key", ADMIN_KEY, "--state-dir", str(self.state)]
        argv += ["--workers", str(self.setup.workers)]
        path = os.pathsep.join([str(INJECT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, **self.setup.environment}
        process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE, env=environment)
        self.gateway = Gateway(process, policy, self.state)
        await self.gateway.wait_ready()
        return self.gateway

    async def acknowledge(self) -> None:
        """Ask which exchanges are stored; what it says may not be lost any more."""
        assert self.gateway is not None
        found = await self.gateway.ask_admin("/exchanges?limit=1000")
        self.acknowledged |= {each["exchange_id"] for each in found["exchanges"]}

    async def close(self) -> None:
        try:
            if self.gateway is not None:
                for backend in self.backends:
                    backend.signal(signal.SIGCONT)
                await self.gateway.stop()
        finally:
            for backend in self.backends:
                await backend.kill()


class Generations(msgspec.Struct, frozen=True):
    """What the journal says of double sending. Requests, not generations."""

    tags: frozenset[str]
    """Of all requests that a backend began to answer, or refused."""
    refused: int
    spoilt: int
    """Answers that the backend did a fault to."""
    again: int
    """Generated a second time after the first ended without one byte of an answer, which is a refusal."""
    doubled: int
    """Generated a second time although bytes of the first had left: what must never be."""


def read_journal(path: Path) -> Generations:
    """Of a site whose backends have ended."""
    begun: defaultdict[str, list[str]] = defaultdict(list)
    headed: set[str] = set()
    tags: set[str] = set()
    steps: Counter[str] = Counter()
    for line in path.read_text().splitlines():
        step, tag, nonce = line.split(" ")
        if tag in ("ping", "?"):
            continue
        steps[step] += 1
        tags.add(tag)
        if step == "start":
            begun[tag].append(nonce)
        elif step == "head":
            headed.add(nonce)
    twice = [nonces for nonces in begun.values() if len(nonces) > 1]
    doubled = sum(any(nonce in headed for nonce in nonces[:-1]) for nonces in twice)
    return Generations(frozenset(tags), steps["refuse"], steps["fault"], len(twice) - doubled, doubled)


@contextlib.asynccontextmanager
async def site(folder: Path, setup: Setup, seed: int) -> AsyncIterator[Site]:
    """A running one."""
    made = Site(folder, setup, seed)
    made.journal.touch()
    try:
        await asyncio.gather(*(backend.start() for backend in made.backends))
        await made.start_gateway()
        yield made
    finally:
        await made.close()
