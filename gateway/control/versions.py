"""Policy versions on disk, each with the files it names, so that a rollback and a restart serve the very bytes that were served
before, whatever has happened to the originals.

    versions/<version>/policy.yaml      the text as it was
    versions/<version>/files/<sha256>   what it names, by content
    versions/<version>/facts.json       what is what; a version whose bytes do not fit it is not used
    versions/pointers.json              which were in force, which the operator has rolled back

Secrets from the environment are not stored: a stored version takes those of today.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Mapping

import msgspec

from gateway.control.policy_file import FILE_BYTES_MAX, Candidate, candidate, problem, read_bounded, source_of
from policies.document import TEXT_BYTES_MAX
from policies.errors import PolicyError

VERSIONS_KEPT = 10
_FACTS_BYTES_MAX = 16 * 1024 * 1024
_VERSION = re.compile(r"[0-9a-f]{8,64}")


class Facts(msgspec.Struct, frozen=True):
    """What is stored of one version."""

    version: str
    source: str
    """`policy_file.source_of` its bytes."""
    stored_at: float
    """Unix time."""
    files: dict[str, str] = {}
    """SHA-256 of every file by the path that the policy names it by."""


class Pointers(msgspec.Struct, frozen=True):
    """What has been in force, oldest first: the last one is, or was when the controller last ran. `rolled_back` are the sources
    that a rollback has put aside; while the file on disk is one of them, the policy is pinned."""

    history: tuple[str, ...] = ()
    rolled_back: tuple[str, ...] = ()

    def adopted(self, version: str) -> Pointers:
        """After a new policy came into force: what was rolled back is forgotten."""
        history = (*(each for each in self.history if each != version), version)
        return Pointers(history[-VERSIONS_KEPT:])


class VersionStore:
    """Blocking: call it on a thread."""

    def __init__(self, state_dir: str) -> None:
        self._folder = os.path.join(state_dir, "versions")

    def files_folder(self, version: str) -> str:
        """Where the files of a version lie, by hash."""
        return os.path.join(self._folder, version, "files")

    def put(self, policy: Candidate, now: float) -> None:
        """Store a version, whole or not at all; what is there and undamaged is left as it is. Raises OSError."""
        version = policy.loaded.version
        with contextlib.suppress(PolicyError):
            if self._bytes_fit(version):
                return
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        draft = os.path.join(self._folder, f".draft-{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            os.mkdir(draft, mode=0o700)
            os.mkdir(os.path.join(draft, "files"), mode=0o700)
            _write(os.path.join(draft, "policy.yaml"), policy.text)
            names = {path: hashlib.sha256(data).hexdigest() for path, data in policy.loaded.files.items()}
            for path, name in names.items():
                _write(os.path.join(draft, "files", name), policy.loaded.files[path])
            facts = Facts(version, policy.source, now, names)
            _write(os.path.join(draft, "facts.json"), msgspec.json.encode(facts))
            target = os.path.join(self._folder, version)
            shutil.rmtree(target, ignore_errors=True)
            os.rename(draft, target)
            _sync_folder(self._folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def facts(self, version: str) -> Facts:
        """Raises PolicyError where there is no such version."""
        if not _VERSION.fullmatch(version):
            raise PolicyError([problem(version, "not a version")])
        path = os.path.join(self._folder, version, "facts.json")
        try:
            return msgspec.json.decode(read_bounded(path, _FACTS_BYTES_MAX), type=Facts)
        except (OSError, msgspec.DecodeError) as error:
            raise PolicyError([problem(path, f"version {version} is not stored: {error}")]) from error

    def load(self, version: str, env: Mapping[str, str]) -> Candidate:
        """A stored version, with the secrets of today. Raises PolicyError where it is missing, damaged or no longer valid."""
        facts = self.facts(version)
        path = os.path.join(self._folder, version, "policy.yaml")

        def read(name: str) -> bytes:
            if name not in facts.files:
                raise FileNotFoundError(None, "not stored with this version")
            return read_bounded(os.path.join(self.files_folder(version), facts.files[name]), FILE_BYTES_MAX)

        try:
            text = read_bounded(path, TEXT_BYTES_MAX)
        except OSError as error:
            raise PolicyError([problem(path, f"cannot read: {error.strerror or error}")]) from error
        found = candidate(text, path, read, env)
        if found.source != facts.source:
            raise PolicyError([problem(path, f"the stored version {version} is damaged")])
        return found

    def _bytes_fit(self, version: str) -> bool:
        facts = self.facts(version)
        try:
            text = read_bounded(os.path.join(self._folder, version, "policy.yaml"), TEXT_BYTES_MAX)
            folder = self.files_folder(version)
            files = {path: read_bounded(os.path.join(folder, name), FILE_BYTES_MAX) for path, name in facts.files.items()}
        except OSError:
            return False
        return source_of(text, files) == facts.source

    def stored(self) -> list[Facts]:
        """Every version, the newest first."""
        found = []
        for name in _list(self._folder):
            if _VERSION.fullmatch(name):
                with contextlib.suppress(PolicyError):
                    found.append(self.facts(name))
        return sorted(found, key=lambda facts: facts.stored_at, reverse=True)

    def pointers(self) -> Pointers:
        """Nothing in force where they are missing or unreadable."""
        try:
            return msgspec.json.decode(read_bounded(self._pointers_path, _FACTS_BYTES_MAX), type=Pointers)
        except (OSError, msgspec.DecodeError):
            return Pointers()

    def point(self, pointers: Pointers) -> None:
        """Write the pointers, then drop the versions that none of them names. Raises OSError."""
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        draft = f"{self._pointers_path}.draft"
        _write(draft, msgspec.json.encode(pointers))
        os.rename(draft, self._pointers_path)
        _sync_folder(self._folder)
        for name in _list(self._folder):
            if name not in pointers.history and (_VERSION.fullmatch(name) or name.startswith(".draft-")):
                shutil.rmtree(os.path.join(self._folder, name), ignore_errors=True)

    @property
    def _pointers_path(self) -> str:
        return os.path.join(self._folder, "pointers.json")


def _list(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
