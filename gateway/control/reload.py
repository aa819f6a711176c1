"""Watches the policy file, and decides what is to be in force: what the file says, what was in force before, or what a rollback
put back. A file that is wrong changes nothing but what is told about it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import msgspec

from gateway.control.apply import Applier, SupersededError
from gateway.control.policy_file import Candidate, Look, PolicyFile, problem
from gateway.control.versions import Facts, Pointers, VersionStore
from gateway.errors import HeadgateError
from gateway.tasks import TaskGroup
from policies.errors import PolicyError, Problem

log = logging.getLogger(__name__)

POLL_INTERVAL_S = 1.0
READY_WITHIN_S = 30.0
"""What a new backend that is not ready may delay a swap by."""
READY_WITHIN_AT_START_S = 5.0
"""The same for the first policy, before which nothing is served: enough for embedded models to start."""
READY_WITHIN_ROLLBACK_S = 5.0
"""The same for a rollback: somebody wants to be rid of what is in force."""
READ_TRIES = 5
"""For a file that changes while it is being read."""
PROBLEMS_LOGGED_MAX = 20

Result: TypeAlias = Literal["ok", "rejected", "unchanged", "rolled_back", "pinned", "superseded"]


class RollbackError(HeadgateError):
    """There is no version to roll back to."""


class Reload(msgspec.Struct, frozen=True):
    """What came of one reload or rollback."""

    result: Result
    version: str
    """In force now."""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    unready: tuple[str, ...] = ()
    """New backends that went in although no replica of theirs is ready."""


class Rejected(msgspec.Struct, frozen=True):
    """The file on disk is not in force, because of these problems."""

    at: float
    """Unix time."""
    problems: tuple[Problem, ...]


class Reloader:
    """One policy file. Reloads and rollbacks happen one at a time, in the order they were asked for."""

    def __init__(
        self, file: PolicyFile, versions: VersionStore, applier: Applier, env: Mapping[str, str], *, on_outcome: Callable[[Reload], None]
    ) -> None:
        self._file = file
        self._versions = versions
        self._applier = applier
        self._env = env
        self._on_outcome = on_outcome
        self._reading = asyncio.Lock()
        self._deciding = asyncio.Lock()
        self._asked = 0
        """Reloads asked for: of those that wait, only the last need be done."""
        self._look: Look | None = None
        """At the file when it was last read."""
        self._source = ""
        """Of the file when it was last valid."""
        self._pointers = Pointers()
        self._tasks = TaskGroup()
        self._poked = asyncio.Event()
        self.current: Candidate | None = None
        self.rejected: Rejected | None = None
        self.in_force_since = 0.0
        """Unix time."""

    @property
    def version(self) -> str:
        """In force; "" before `start`."""
        return "" if self.current is None else self.current.loaded.version

    @property
    def previous(self) -> str:
        """What a rollback would put back; "" for nothing."""
        return self._pointers.history[-2] if len(self._pointers.history) > 1 else ""

    @property
    def pinned(self) -> bool:
        """A rollback holds, and the file on disk has not changed since."""
        return bool(self._pointers.rolled_back)

    async def stored(self) -> list[Facts]:
        """Every version that is kept, the newest first."""
        return await asyncio.to_thread(self._versions.stored)

    async def start(self) -> Reload:
        """Put the first policy in force: the file's; where that is wrong, or a rollback has put it aside, the stored version
        that was last in force.

        Raises:
            PolicyError: There is neither.
        """
        self._pointers = await asyncio.to_thread(self._versions.pointers)
        stored = await asyncio.to_thread(self._last_stored)
        async with self._deciding:
            try:
                disk = await self._read()
            except PolicyError as error:
                outcome = self._reject(error.problems)
            else:
                if stored is not None and disk.source in self._pointers.rolled_back:
                    outcome = Reload("pinned", "")
                else:
                    outcome = await self._adopt(disk, READY_WITHIN_AT_START_S)
            if self.current is None and stored is not None:
                candidate, pointers = stored
                why = "the file was rolled back" if outcome.result == "pinned" else "the file is wrong"
                log.warning("serving the stored policy, not the file", extra={"version": candidate.loaded.version, "why": why})
                fallback = await self._apply(candidate, READY_WITHIN_AT_START_S, outcome.result, pointers, stored=True)
                if self.current is None:
                    _log_problems("the stored policy cannot be served", fallback.problems)
                    outcome = msgspec.structs.replace(outcome, problems=(*outcome.problems, *fallback.problems))
                else:
                    outcome = msgspec.structs.replace(fallback, problems=outcome.problems)
        if self.current is None:
            raise PolicyError(outcome.problems)
        self._on_outcome(outcome)
        return outcome

    def _last_stored(self) -> tuple[Candidate, Pointers] | None:
        """The last version in force that is still good, and the pointers with it on top: its hash may be another one than when
        it was stored, since secrets are part of it."""
        history = self._pointers.history
        for index in reversed(range(len(history))):
            try:
                found = self._versions.load(history[index], self._env)
            except PolicyError as error:
                log.error("a stored policy cannot be used", extra={"version": history[index], "why": str(error)})
            else:
                return found, Pointers((*history[:index], found.loaded.version), self._pointers.rolled_back)
        return None

    async def watch(self) -> None:
        """Reload whenever the file has changed and then stayed the same for two looks, or at once when poked."""
        before: Look | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poked.wait(), POLL_INTERVAL_S)
            look = await asyncio.to_thread(self._file.look)
            if self._poked.is_set() or (look == before and look != self._look):
                self._poked.clear()
                self._look = look
                self._tasks.spawn(self.reload(), name="reload")
            before = look

    def poke(self) -> None:
        """Reload now: SIGHUP."""
        self._poked.set()

    async def close(self) -> None:
        """Abandon what is under way."""
        await self._tasks.close()

    async def reload(self) -> Reload:
        """Read the file and put it in force; what is in force stays where that fails. A newer content supersedes an older one
        that still waits for its backends."""
        async with self._reading:
            try:
                found: Candidate | tuple[Problem, ...] = await self._read()
            except PolicyError as error:
                found = error.problems
        self._asked += 1
        turn = self._asked
        self._applier.supersede(found.loaded.version if isinstance(found, Candidate) else "")
        async with self._deciding:
            if turn != self._asked:
                outcome = Reload("superseded", self.version)
            elif isinstance(found, Candidate):
                outcome = await self._decide(found)
            else:
                outcome = self._reject(found)
        self._on_outcome(outcome)
        return outcome

    async def rollback(self) -> Reload:
        """Put the version before back in force and keep it there until the file on disk changes.

        Raises:
            RollbackError: There is none.
        """
        async with self._deciding:
            if not self.previous or self.current is None:
                raise RollbackError("there is no earlier version to roll back to")
            try:
                before = await asyncio.to_thread(self._versions.load, self.previous, self._env)
            except PolicyError as error:
                outcome = Reload("rejected", self.version, error.problems)
            else:
                put_aside = {*self._pointers.rolled_back, self.current.source, self._source} - {""}
                pointers = Pointers((*self._pointers.history[:-2], before.loaded.version), tuple(sorted(put_aside)))
                outcome = await self._apply(before, READY_WITHIN_ROLLBACK_S, "rolled_back", pointers, stored=True)
        _log_problems("rollback refused", outcome.problems)
        self._on_outcome(outcome)
        return outcome

    async def _read(self) -> Candidate:
        for _ in range(READ_TRIES):
            before = await asyncio.to_thread(self._file.look)
            try:
                found = await asyncio.to_thread(self._file.load)
            finally:
                self._look = await asyncio.to_thread(self._file.look)
            if self._look[0] == before[0]:
                self._source = found.source
                return found
        raise PolicyError([problem(self._file.path, "the file changes faster than it can be read")])

    async def _decide(self, found: Candidate) -> Reload:
        if found.source in self._pointers.rolled_back:
            self.rejected = None
            log.info("the file is still the one that was rolled back: nothing changes", extra={"version": self.version})
            return Reload("pinned", self.version, warnings=found.loaded.warnings)
        if found.loaded.version == self.version:
            self.rejected = None
            if self.pinned:  # the file has become what the rollback put back
                await self._point(Pointers(self._pointers.history))
            log.info("the policy says what is in force: nothing changes", extra={"version": self.version})
            return Reload("unchanged", self.version, warnings=found.loaded.warnings)
        return await self._adopt(found, READY_WITHIN_S)

    async def _adopt(self, found: Candidate, ready_within_s: float) -> Reload:
        """Put the file's policy in force; where that fails, the file is rejected."""
        outcome = await self._apply(found, ready_within_s, "ok", self._pointers.adopted(found.loaded.version))
        return self._reject(outcome.problems) if outcome.result == "rejected" else outcome

    async def _apply(self, found: Candidate, ready_within_s: float, result: Result, pointers: Pointers, *, stored: bool = False) -> Reload:
        """`stored`: what is wrong with it is not wrong with the file on disk."""
        named = f"stored version {found.loaded.version}" if stored else self._file.path
        try:
            unready = await self._applier.apply(found, named, ready_within_s)
        except PolicyError as error:
            return Reload("rejected", self.version, error.problems)
        except SupersededError:
            log.info("a newer policy has come", extra={"version": found.loaded.version})
            return Reload("superseded", self.version)
        self.current, self.in_force_since = found, time.time()
        if result != "rejected":
            self.rejected = None
        await self._point(pointers)
        log.info("policy in force", extra={"version": self.version, "result": result})
        return Reload(result, self.version, warnings=found.loaded.warnings, unready=unready)

    def _reject(self, problems: tuple[Problem, ...]) -> Reload:
        self.rejected = Rejected(time.time(), problems)
        _log_problems("policy rejected", problems)
        return Reload("rejected", self.version, problems)

    async def _point(self, pointers: Pointers) -> None:
        """What is in force must not depend on a disk: a failure is told, and the next restart may serve an older version."""
        self._pointers = pointers
        try:
            await asyncio.to_thread(self._versions.point, pointers)
        except OSError as error:
            log.error("cannot note which policy is in force", extra={"why": str(error)})


def _log_problems(event: str, problems: tuple[Problem, ...]) -> None:
    for each in problems[:PROBLEMS_LOGGED_MAX]:
        log.error("%s: %s", event, each)
