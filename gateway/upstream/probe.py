"""Is a replica ready? It is when it answers a prompt. Asked once a machine, by the controller; the workers hear it in the overlay.

A list of models or a health page proves nothing: an engine whose worker has died goes on serving those.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias

import httpx
import msgspec

from gateway.link.messages import ReplicaState
from gateway.tasks import TaskGroup
from gateway.telemetry.metrics import Exposition
from gateway.upstream import ping
from gateway.wire.tls import client_context
from policies.plan import Endpoint
from policies.schema import Backend

log = logging.getLogger(__name__)

PROBES_MAX: Final = 16
"""Replicas that are asked at the same time."""
ANSWER_BYTES_MAX: Final = 1024 * 1024
SPREAD_RATIO: Final = 0.1
"""Probes are spread by so much around `every`, so that many replicas do not stay in step."""

SOON_FIRST_S: Final = 0.5
"""A replica that is not ready is asked again so soon, then after twice as long, up to `every`: one that is just starting is found
at once, and a policy that waits for it does not wait in vain."""
SILENT_MAX_S: Final = 30.0
"""A replica that has not been heard of for so long from the first is unready, even if its first probe still waits."""

Key: TypeAlias = tuple[object, ...]


class ProbeView(msgspec.Struct, frozen=True):
    """What the last probe of a replica found."""

    state: ReplicaState
    message: str
    """Why it is not ready, or what is wrong with its evidence; "" where all is well."""


class _Target:
    """One replica under watch."""

    def __init__(self, backend: Backend, url: str) -> None:
        self.backend = backend
        self.url = url
        self.endpoint: Endpoint = "chat"
        """The one that answered last."""
        self.view: ProbeView | None = None
        """None before the first probe has ended."""
        self.turn = asyncio.Lock()
        """One probe of a replica at a time."""
        self.task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        return self.view is not None and self.view.state.ready

    @property
    def name(self) -> str:
        return f"backend {self.backend.name}, replica {self.url}"


class _Unready(Exception):  # noqa: N818  (a finding, not an error of ours)
    pass


class _Answer(msgspec.Struct):
    status: int
    body: bytes


class Prober:
    """Watches the replicas of the policy in force. Embedded backends come with their `replicas` filled in (`kinds.replica_urls`)."""

    def __init__(
        self,
        exposition: Exposition,
        *,
        on_change: Callable[[], None],
        tls: ssl.SSLContext | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`on_change` is called whenever `states` has changed; `tls` checks https replicas (None: by the system's
        authorities)."""
        self._exposition = exposition
        self._on_change = on_change
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        # A connection of its own for every probe: that there is a new one to be had is part of being ready.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._client = httpx.AsyncClient(
            verify=tls or client_context(""), transport=transport, limits=limits, follow_redirects=False, trust_env=False
        )
        self._targets: dict[Key, _Target] = {}
        self._newest: dict[str, Backend] = {}
        self._room = asyncio.Semaphore(PROBES_MAX)
        self._tasks = TaskGroup()

    def watch(self, backends: Iterable[Backend]) -> None:
        """Probe these from now on, and no others; what is known of those that stay is kept. Two definitions of one backend may
        stand side by side while a policy is prepared: the later one is the one that `is_ready` means."""
        backends = tuple(backends)
        before = self.states()
        self._newest = {backend.name: backend for backend in backends}
        wanted = {_key(backend, url): (backend, url) for backend in backends for url in backend.replicas}
        for key in self._targets.keys() - wanted.keys():
            if (task := self._targets.pop(key).task) is not None:
                task.cancel()
        for key, (backend, url) in wanted.items():
            if key not in self._targets:
                self._targets[key] = target = _Target(backend, url)
                target.task = self._tasks.spawn(self._keep_probing(target), name=f"probe of {target.name}")
        if self.states() != before:
            self._show()
            self._on_change()

    async def probe_once(self) -> None:
        """Probe all that is watched, now, and wait for what comes of it."""
        await asyncio.gather(*(self._probe(target) for target in tuple(self._targets.values())))

    def is_ready(self, backend: str) -> bool:
        """Some replica of it answered its last probe."""
        newest = self._newest.get(backend)
        return newest is not None and any(
            (target := self._targets.get(_key(newest, url))) is not None and target.ready for url in newest.replicas
        )

    def states(self) -> list[ReplicaState]:
        """What is known of every replica; one that is missing has not been asked yet."""
        return [view.state for view in self.views()]

    def views(self) -> list[ProbeView]:
        """`states`, with the reasons. Where two definitions of a backend share a replica, the one for which it is ready counts."""
        found: dict[tuple[str, str], ProbeView] = {}
        for target in self._targets.values():
            name = (target.backend.name, target.url)
            if target.view is not None and (target.ready or name not in found):
                found[name] = target.view
        return list(found.values())

    async def close(self) -> None:
        await self._tasks.close()
        await self._client.aclose()

    async def _keep_probing(self, target: _Target) -> None:
        silent = asyncio.get_running_loop().call_later(SILENT_MAX_S, self._still_silent, target)
        try:
            soon = SOON_FIRST_S
            while True:
                await self._probe(target)
                every = target.backend.readiness.every
                if target.ready:
                    soon, wait = SOON_FIRST_S, every
                else:
                    soon, wait = 2 * soon, min(soon, every)
                await self._sleep(wait * (1 + SPREAD_RATIO * (2 * self._jitter() - 1)))
        finally:
            silent.cancel()

    def _still_silent(self, target: _Target) -> None:
        if target.view is None:
            self._found(target, ready=False, message="has not answered a prompt yet")

    async def _probe(self, target: _Target) -> None:
        """One probe, and the warm-up where it makes the replica ready."""
        async with target.turn:
            bound = target.backend.timeouts.first_token
            try:
                async with self._room:
                    started = self._clock()
                    try:
                        async with asyncio.timeout(bound):
                            problem = await self._ping(target)
                    finally:
                        self._exposition.histogram("headgate_probe_seconds", target.backend.name).observe(self._clock() - started)
                if not target.ready:
                    await self._warm_up(target)
            except TimeoutError:
                self._found(target, ready=False, message=f"no answer to a prompt within {bound:g} s")
            except _Unready as finding:
                self._found(target, ready=False, message=str(finding))
            except Exception as error:  # whatever it was, the replica must be asked again
                log.exception("%s: a probe failed", target.name)
                self._found(target, ready=False, message=f"{type(error).__name__}: {error}")
            else:
                self._found(target, ready=True, message=problem or "", evidence_ok=problem is None)

    async def _ping(self, target: _Target) -> str | None:
        """Send the readiness prompt where it is answered; returns what is wrong with the evidence. Raises _Unready."""
        readiness = target.backend.readiness
        first: str | None = None
        for endpoint in sorted(ping.PATHS, key=lambda endpoint: endpoint != target.endpoint):
            answer = await self._ask(target, endpoint, readiness.prompt, readiness.max_tokens, evidence=True)
            if answer.status in (400, 422) and _wants_evidence(target, endpoint):
                answer = await self._ask(target, endpoint, readiness.prompt, readiness.max_tokens, evidence=False)
            if answer.status == 200:
                if not ping.is_answer(endpoint, answer.body):
                    raise _Unready(f"{ping.PATHS[endpoint]} answered 200 without a choice")
                target.endpoint = endpoint
                return ping.evidence_problem(target.backend.evidence, answer.body)
            first = first or f"{ping.PATHS[endpoint]} answered {answer.status}"
            if answer.status not in ping.NOT_HERE:
                break
        raise _Unready(first or "it offers no endpoint for a prompt")

    async def _warm_up(self, target: _Target) -> None:
        """Send the warm-up prompts, one after another. Time that runs out ends it; a replica that fails over one is not ready."""
        warm_up = target.backend.warm_up
        try:
            async with asyncio.timeout(warm_up.for_):
                for prompt in warm_up.prompts:
                    answer = await self._ask(target, target.endpoint, prompt, target.backend.readiness.max_tokens, evidence=False)
                    if answer.status != 200:
                        raise _Unready(f"answered {answer.status} to a warm-up prompt")
        except TimeoutError:
            log.warning("%s: its warm-up was not done within %g s", target.name, warm_up.for_)

    async def _ask(self, target: _Target, endpoint: Endpoint, prompt: str, max_tokens: int, *, evidence: bool) -> _Answer:
        backend = target.backend
        headers = {"content-type": "application/json"}
        if backend.api_key is not None:
            headers["authorization"] = f"Bearer {backend.api_key}"
        body = ping.request_body(endpoint, backend.model, prompt, max_tokens, evidence=evidence and _wants_evidence(target, endpoint))
        url = target.url.rstrip("/") + ping.PATHS[endpoint]
        timeout = httpx.Timeout(None, connect=backend.timeouts.connect)
        received = bytearray()
        try:
            async with self._client.stream("POST", url, content=body, headers=headers, timeout=timeout) as response:
                async for piece in response.aiter_bytes():
                    received += piece
                    if len(received) > ANSWER_BYTES_MAX:
                        raise _Unready(f"its answer to a prompt is larger than {ANSWER_BYTES_MAX} bytes")
                return _Answer(response.status_code, bytes(received))
        except httpx.HTTPError as error:
            raise _Unready(f"{type(error).__name__}: {error}") from error

    def _found(self, target: _Target, *, ready: bool, message: str, evidence_ok: bool | None = None) -> None:
        """Keep what was found; tell if it is new. A replica that does not answer keeps its evidence as it was."""
        before = target.view
        if evidence_ok is None:
            evidence_ok = before is None or before.state.evidence_ok
        state = ReplicaState(target.backend.name, target.url, ready, evidence_ok)
        target.view = ProbeView(state, message)
        if before is None or before.state != state:
            level = logging.INFO if ready and evidence_ok else logging.WARNING
            log.log(level, "%s: %s%s", target.name, "ready" if ready else "not ready", f": {message}" if message else "")
            self._show()
            self._on_change()

    def _show(self) -> None:
        """Bring the gauges up to what is known."""
        states = self.states()
        self._exposition.set_gauges("headgate_backend_ready", {(s.backend, s.replica): float(s.ready) for s in states})
        self._exposition.set_gauges("headgate_backend_evidence_ok", {(s.backend, s.replica): float(s.evidence_ok) for s in states})


def _wants_evidence(target: _Target, endpoint: Endpoint) -> bool:
    return target.backend.evidence != "none" and endpoint != "embeddings"


def _key(backend: Backend, url: str) -> Key:
    """What a probe's finding holds for: a backend whose price changes need not be asked again, one with another model must."""
    return (
        backend.name,
        url,
        backend.model,
        backend.api_key,
        backend.evidence,
        backend.readiness,
        backend.warm_up,
        backend.timeouts.connect,
        backend.timeouts.first_token,
    )
