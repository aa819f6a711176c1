"""A control plane without sockets: scripted workers, scripted probes, a real folder."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from gateway.control.apply import Applier
from gateway.control.fleet import Fleet
from gateway.control.policy_file import PolicyFile
from gateway.control.reload import Reload, Reloader
from gateway.control.versions import VersionStore
from gateway.link.messages import Discard, Down, Hello, Overlay, Prepare, Prepared, Swap, Swapped
from gateway.link.server import Worker
from policies.schema import Backend, Policy


def policy_text(model: str = "m", *, url: str = "http://127.0.0.1:1", extra: str = "") -> str:
    return f"""
version: 1
backends:
  - {{name: small, kind: vllm, replicas: ["{url}"], model: {model}}}
routes:
  - {{name: chat, matches: [{{models: [chat]}}], backend: small}}
{extra}"""


async def until(met: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for what threads and tasks do in their own time."""
    async with asyncio.timeout(timeout_s):
        while not met():
            await asyncio.sleep(0.005)


class ScriptedWorker(Worker):
    """Answers orders as a worker does, or fails, or is silent."""

    def __init__(self, fleet: Fleet, number: int = 0, *, version: str = "") -> None:
        self.hello = Hello(number, 1000 + number, f"incarnation-{number}", version)
        self.heard: list[Down] = []
        self.version = version
        self.fails = ""
        self.silent = False
        self.closed = False
        self._fleet = fleet
        self._prepared: set[str] = set()

    def send(self, message: Down) -> None:
        self.heard.append(message)
        if not self.silent:
            asyncio.get_running_loop().call_soon(self._answer, message)

    def _answer(self, message: Down) -> None:
        match message:
            case Prepare(version=version):
                if not self.fails:
                    self._prepared.add(version)
                self._fleet.on_message(self, Prepared(version, self.fails))
            case Swap(version=version) if version in self._prepared:
                self.version = version
                self._fleet.on_message(self, Swapped(version))
            case Discard(version=version):
                self._prepared.discard(version)

    def close(self) -> None:
        self.closed = True
        self._fleet.on_gone(self)

    def orders(self) -> list[tuple[str, str]]:
        return [(type(each).__name__, each.version) for each in self.heard if isinstance(each, Prepare | Swap | Discard)]

    def overlays(self) -> list[Overlay]:
        return [each for each in self.heard if isinstance(each, Overlay)]


class ScriptedProbes:
    """Every backend is ready but those named, by name or as `name:model`."""

    def __init__(self) -> None:
        self.watched: list[str] = []
        self.unready: set[str] = set()

    def watch(self, backends: Iterable[Backend]) -> None:
        self.watched = [f"{backend.name}:{backend.model}" for backend in backends]

    def is_ready(self, backend: str) -> bool:
        newest = [label for label in self.watched if label.startswith(f"{backend}:")][-1]
        return backend not in self.unready and newest not in self.unready


class Hooks:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.objects: Callable[[Policy], str] = lambda policy: ""
        self.unopened: list[str] = []

    def objection(self, policy: Policy) -> str:
        return self.objects(policy)

    def place(self, policy: Policy) -> Policy:
        return policy

    def preparing(self, policy: Policy) -> None:
        self.told.append(("preparing", policy.backends[0].model))

    async def open_detectors(self, digests: Mapping[str, str], folder: str) -> list[str]:
        self.told.append(("open_detectors", " ".join(f"{name}={digest} {os.listdir(folder)}" for name, digest in digests.items())))
        return self.unopened

    def in_force(self, policy: Policy, version: str, files: Mapping[str, bytes]) -> None:
        self.told.append(("in_force", version))


class Rig:
    """One controller's life; make another over the same folder for a restart."""

    def __init__(self, folder: Path, env: dict[str, str] | None = None) -> None:
        self.path = folder / "etc" / "policy.yaml"
        self.path.parent.mkdir(exist_ok=True)
        self.fleet = Fleet()
        self.probes = ScriptedProbes()
        self.hooks = Hooks()
        self.versions = VersionStore(str(folder / "state"))
        self.env = env or {}
        self.outcomes: list[Reload] = []
        applier = Applier(self.versions, self.fleet, self.probes, self.hooks)
        file = PolicyFile(str(self.path), self.env)
        self.reloader = Reloader(file, self.versions, applier, self.env, on_outcome=self._note)
        self._noted = asyncio.Event()

    def _note(self, outcome: Reload) -> None:
        self.outcomes.append(outcome)
        self._noted.set()

    async def outcome(self, count: int) -> Reload:
        """The `count`-th outcome, the start's being the first."""
        async with asyncio.timeout(5):
            while len(self.outcomes) < count:
                self._noted.clear()
                await self._noted.wait()
        return self.outcomes[count - 1]

    def write(self, text: str) -> None:
        self.path.write_text(text)

    def worker(self, number: int = 0, *, version: str = "") -> ScriptedWorker:
        worker = ScriptedWorker(self.fleet, number, version=version)
        self.fleet.on_hello(worker)
        return worker
