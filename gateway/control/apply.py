"""One policy on its way into force: everything that can fail is done first, on every worker; then the swap, which cannot."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Protocol

from gateway.control.fleet import Fleet
from gateway.control.policy_file import Candidate, problem
from gateway.control.versions import VersionStore
from gateway.errors import HeadgateError
from gateway.link.framing import FRAME_BYTES_MAX
from gateway.link.messages import Prepare
from policies.compile import compile_policy, encode
from policies.errors import PolicyError
from policies.rules import named_files
from policies.schema import Backend, Policy

log = logging.getLogger(__name__)

READY_LOOK_S = 0.05
ORDER_BYTES_MAX = FRAME_BYTES_MAX - 4096
"""Of a policy as the workers are sent it."""


class SupersededError(HeadgateError):
    """A newer policy has come while this one waited for its backends."""


class Probes(Protocol):
    """`gateway.upstream.probe.Prober`, as far as a policy on its way in needs it."""

    def watch(self, backends: Iterable[Backend]) -> None:
        """Probe these from now on, and no others; those it knows already keep their state. Of two definitions of one backend
        the later is the one that `is_ready` means."""
        ...

    def is_ready(self, backend: str) -> bool:
        """Some replica of it answered its last probe."""
        ...


class Hooks(Protocol):
    """The rest of the controller, told as a policy comes into force."""

    def objection(self, policy: Policy) -> str:
        """Why this gateway, as it was started, must not serve the policy; "" where it may."""
        ...

    def place(self, policy: Policy) -> Policy:
        """The policy as workers and probes need it: addresses filled in that only this machine knows."""
        ...

    def preparing(self, policy: Policy) -> None:
        """Start what the policy needs (embedded models): its backends are about to be probed."""
        ...

    async def open_detectors(self, digests: Mapping[str, str], folder: str) -> list[str]:
        """Start the scoring process, and have it read these (SHA-256 by name) from `folder`; why not, for each that it cannot."""
        ...

    def in_force(self, policy: Policy, version: str, files: Mapping[str, bytes]) -> None:
        """It has been swapped in. `files`: what the files that it names hold."""
        ...


class Applier:
    """Applies one policy at a time; the caller sees to that."""

    def __init__(self, versions: VersionStore, fleet: Fleet, probes: Probes, hooks: Hooks) -> None:
        self._versions = versions
        self._fleet = fleet
        self._probes = probes
        self._hooks = hooks
        self._backends: tuple[Backend, ...] = ()
        """Of the policy in force, as they are probed."""
        self._applying = ""
        self._superseded = asyncio.Event()

    def supersede(self, version: str) -> None:
        """`version` is wanted now ("": nothing good): give up another one that still waits for its backends."""
        if self._applying != version:
            self._superseded.set()

    async def apply(self, found: Candidate, file: str, ready_within_s: float) -> tuple[str, ...]:
        """Put `found` in force; returns the new backends that went in unready. `file` stands in problems.

        Raises:
            PolicyError: It cannot be put in force; what was in force still is, everywhere.
            SupersededError: `supersede` was called meanwhile; the same.
        """
        version = found.loaded.version
        if why := self._hooks.objection(found.loaded.policy):
            raise PolicyError([problem(file, why)])
        policy = self._hooks.place(found.loaded.policy)
        self._applying = version
        self._superseded.clear()
        try:
            order = await self._prepare(found, policy, file)
            unready = await self._until_ready(policy, ready_within_s)
        except (PolicyError, SupersededError):
            self._fleet.discard(version)
            self._probes.watch(self._backends)
            raise
        finally:
            self._applying = ""
        await self._fleet.swap(order)
        self._backends = policy.backends
        self._probes.watch(policy.backends)
        self._hooks.in_force(policy, version, found.loaded.files)
        for name in unready:
            log.warning("a backend is not ready and went in unready", extra={"backend": name})
        return unready

    async def _prepare(self, found: Candidate, policy: Policy, file: str) -> Prepare:
        version = found.loaded.version
        files = found.loaded.files
        try:
            snapshot = await asyncio.to_thread(compile_policy, policy, version, files)
            await asyncio.to_thread(self._versions.put, found, time.time())
        except (KeyError, ValueError) as error:
            raise PolicyError([problem(file, f"does not compile: {error}")]) from error
        except OSError as error:
            raise PolicyError([problem(file, f"cannot store this version: {error}")]) from error
        named = {path: hashlib.sha256(files[path]).hexdigest() for path in named_files(policy)}
        order = Prepare(version, encode(policy), self._versions.files_folder(version), named)
        if len(order.policy) > ORDER_BYTES_MAX:
            raise PolicyError([problem(file, f"with its defaults it has {len(order.policy)} bytes, more than {ORDER_BYTES_MAX}")])
        self._hooks.preparing(policy)
        # Of a backend that changes both: its old replicas serve until the swap.
        self._probes.watch([*self._backends, *(backend for backend in policy.backends if backend not in self._backends)])
        digests = snapshot.digests
        errors = await self._hooks.open_detectors(digests, order.files) if digests else []
        if errors := errors or await self._fleet.prepare(order):
            raise PolicyError([problem(file, each) for each in errors])
        return order

    async def _until_ready(self, policy: Policy, seconds: float) -> tuple[str, ...]:
        """Wait until some replica of every new backend is ready; the names of those that are not after `seconds`."""
        known = set(map(_whom, self._backends))
        new = [backend.name for backend in policy.backends if _whom(backend) not in known]
        deadline = asyncio.get_running_loop().time() + seconds
        while unready := tuple(name for name in new if not self._probes.is_ready(name)):
            if asyncio.get_running_loop().time() >= deadline:
                break
            try:
                await asyncio.wait_for(self._superseded.wait(), READY_LOOK_S)
            except TimeoutError:
                continue
            break
        if self._superseded.is_set():
            raise SupersededError
        return unready


def _whom(backend: Backend) -> tuple[object, ...]:
    """Who is asked: a backend of which this changes may not be there, whatever was known before."""
    return (backend.name, backend.replicas, backend.model, backend.api_key)
