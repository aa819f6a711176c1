"""The workers as the controller sees them: who is there, what each has in force, and how a policy reaches all of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Literal

import msgspec

from gateway.link.messages import CascadeState, Discard, Overlay, Prepare, Prepared, ReplicaSeen, ReplicaState, Swap, Swapped
from gateway.link.server import Worker

log = logging.getLogger(__name__)

PREPARE_TIMEOUT_S = 10.0
SWAP_TIMEOUT_S = 5.0


class Member(msgspec.Struct):
    """One connected worker."""

    worker: Worker
    since: float
    """Unix time of its hello."""
    version: str
    """What it serves by; "" for nothing yet."""
    prepared: str = ""
    error: str = ""
    """Why it could not prepare what is in force; "" while all is well."""
    breakers_open: set[tuple[str, str]] = msgspec.field(default_factory=set)
    """(backend, replica)."""


class _Round:
    """One question to all workers, until each has answered or is gone."""

    def __init__(self, kind: Literal["prepare", "swap"], version: str, waiting: Iterable[Worker]) -> None:
        self.kind = kind
        self.version = version
        self.waiting = set(waiting)
        self.errors: list[str] = []
        self.done = asyncio.Event()
        self.check()

    def answered(self, worker: Worker, error: str = "") -> None:
        if worker in self.waiting:
            self.waiting.discard(worker)
            if error:
                self.errors.append(f"worker {worker.hello.worker}: {error}")
            self.check()

    def check(self) -> None:
        if not self.waiting:
            self.done.set()

    async def wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.done.wait(), seconds)
        except TimeoutError:
            pass


class Fleet:
    """Every worker. One that comes, or comes back, is told the overlay and the policy in force at once."""

    def __init__(self, expected: int = 0) -> None:
        """`expected` workers are counted as live until `settle`: those that serve on through a controller's restart are not
        back yet, and their share of the machine's limits must not be given away."""
        self.in_force: Prepare | None = None
        self._members: dict[Worker, Member] = {}
        self._round: _Round | None = None
        self._expected = expected
        self._replicas: tuple[ReplicaState, ...] = ()
        self._alerts: tuple[str, ...] = ()
        self._cascades: tuple[CascadeState, ...] = ()
        self._told: Overlay | None = None

    @property
    def members(self) -> list[Member]:
        """By worker number."""
        return sorted(self._members.values(), key=lambda member: member.worker.hello.worker)

    # What the link tells

    def on_hello(self, worker: Worker) -> None:
        self._members[worker] = Member(worker, time.time(), worker.hello.policy_version)
        log.info("worker connected", extra={"worker": worker.hello.worker, "pid": worker.hello.pid})
        if not self._tell_overlay() and self._told is not None:
            worker.send(self._told)
        if self.in_force is not None and worker.hello.policy_version != self.in_force.version:
            self._bring_up(worker, self.in_force)

    def on_gone(self, worker: Worker) -> None:
        self._members.pop(worker, None)
        log.info("worker gone", extra={"worker": worker.hello.worker, "pid": worker.hello.pid})
        if self._round is not None:
            self._round.answered(worker)
        self._tell_overlay()

    def on_message(self, worker: Worker, message: Prepared | Swapped | ReplicaSeen) -> None:
        member = self._members.get(worker)
        if member is None:
            return
        match message:
            case Prepared(version=version, error=error):
                self._prepared(member, version, error)
            case Swapped(version=version):
                member.version, member.error = version, ""
                if self._round is not None and self._round.kind == "swap" and self._round.version == version:
                    self._round.answered(worker)
            case ReplicaSeen(backend=backend, replica=replica, open=True):
                member.breakers_open.add((backend, replica))
            case ReplicaSeen(backend=backend, replica=replica):
                member.breakers_open.discard((backend, replica))

    def _prepared(self, member: Member, version: str, error: str) -> None:
        asked = self._round is not None and self._round.version == version
        if not error:
            member.prepared = version
        elif not asked or (self._round is not None and self._round.kind == "swap"):
            member.error = error
            log.error("a worker cannot prepare the policy", extra={"worker": member.worker.hello.worker, "version": version, "why": error})
        if self._round is not None and asked and (error or self._round.kind == "prepare"):
            self._round.answered(member.worker, error)

    # A policy for all

    async def prepare(self, order: Prepare) -> list[str]:
        """Have every worker prepare; why it failed, for each that did. A worker that dies meanwhile does not count."""
        waiting = [member.worker for member in self._members.values() if member.version != order.version]
        self._round = round_ = _Round("prepare", order.version, waiting)
        for worker in waiting:
            worker.send(order)
        await round_.wait(PREPARE_TIMEOUT_S)
        self._round = None
        silent = [f"worker {worker.hello.worker}: no answer within {PREPARE_TIMEOUT_S:g} s" for worker in round_.waiting]
        return round_.errors + silent

    async def swap(self, order: Prepare) -> None:
        """Put `order` in force everywhere. Cannot fail: a worker that does not answer is cut off, and told anew when it is back."""
        self.in_force = order
        self._tell_overlay()
        waiting = [member.worker for member in self._members.values() if member.version != order.version]
        self._round = round_ = _Round("swap", order.version, waiting)
        for worker in waiting:
            if self._members[worker].prepared == order.version:
                worker.send(Swap(order.version))
            else:  # it came after `prepare`
                self._bring_up(worker, order)
        await round_.wait(SWAP_TIMEOUT_S)
        self._round = None
        for worker in list(round_.waiting):
            log.error("a worker did not swap and is cut off", extra={"worker": worker.hello.worker, "version": order.version})
            worker.close()

    def discard(self, version: str) -> None:
        """Have every worker forget a version that it has prepared."""
        for member in self._members.values():
            if member.prepared == version:
                member.prepared = ""
            if member.version != version:
                member.worker.send(Discard(version))

    def _bring_up(self, worker: Worker, order: Prepare) -> None:
        worker.send(order)
        worker.send(Swap(order.version))

    # What is true beside the policy

    def settle(self) -> None:
        """Count only those that are there from now on."""
        self._expected = 0
        self._tell_overlay()

    def set_replicas(self, states: Iterable[ReplicaState]) -> None:
        self._replicas = tuple(states)
        self._tell_overlay()

    def set_alerts(self, firing: Iterable[str]) -> None:
        self._alerts = tuple(firing)
        self._tell_overlay()

    def set_cascades(self, states: Iterable[CascadeState]) -> None:
        self._cascades = tuple(states)
        self._tell_overlay()

    def _tell_overlay(self) -> bool:
        """Tell all workers what has changed; False where nothing has. Before the first policy there is nothing to tell."""
        if self.in_force is None:
            return False
        overlay = Overlay(max(1, len(self._members), self._expected), self._replicas, self._alerts, self._cascades)
        if overlay == self._told:
            return False
        self._told = overlay
        for worker in self._members:
            worker.send(overlay)
        return True
