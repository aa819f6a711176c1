"""The policy file on disk: has it changed, and what does it say."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import msgspec

from policies.document import TEXT_BYTES_MAX
from policies.errors import PolicyError, Problem
from policies.load import Loaded, load

FILE_BYTES_MAX = 64 * 1024 * 1024
"""Of one file that a policy names."""


class Mark(NamedTuple):
    """What tells one content of a file from another without reading it; followed through symlinks, so that a link that is
    pointed elsewhere (a mounted config map) shows."""

    modified_ns: int
    size: int
    inode: int
    device: int


Look: TypeAlias = tuple[Mark | None, ...]
"""One mark for the policy and one for each file it names; None: not there."""


class Candidate(msgspec.Struct, frozen=True):
    """A valid policy with the bytes it was made of."""

    loaded: Loaded
    text: bytes
    source: str
    """Hash of the text and of every file it names: the same as long as nobody changes a byte, whatever the environment says."""


def source_of(text: bytes, files: Mapping[str, bytes]) -> str:
    """Hash of a policy's text and files."""
    digest = hashlib.sha256(hashlib.sha256(text).digest())
    for path in sorted(files):
        digest.update(hashlib.sha256(path.encode()).digest() + hashlib.sha256(files[path]).digest())
    return digest.hexdigest()


def read_bounded(path: str, bytes_max: int) -> bytes:
    """The content of a regular file. Raises OSError, also where it is longer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe must not wait for its writer
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        raise OSError(None, "it is no regular file")
    with os.fdopen(descriptor, "rb") as file:
        if facts.st_size > bytes_max:
            raise OSError(None, f"it has {facts.st_size} bytes, more than {bytes_max}")
        return file.read(bytes_max)


class PolicyFile:
    """One policy file and those it names, relative to its folder. Its methods block: call them on a thread."""

    def __init__(self, path: str, env: Mapping[str, str]) -> None:
        self.path = path
        self._env = env
        self._named: tuple[str, ...] = ()
        """What the last load asked for, found or not."""

    def look(self) -> Look:
        """The state of every file that the policy was last made of."""
        return tuple(_mark(path) for path in (self.path, *map(self._resolve, self._named)))

    def load(self) -> Candidate:
        """Read it anew.

        Raises:
            PolicyError: It is no valid policy, is not there or cannot be read.
        """
        try:
            text = read_bounded(self.path, TEXT_BYTES_MAX)
        except OSError as error:
            raise PolicyError([problem(self.path, f"cannot read the policy file: {error.strerror or error}")]) from error
        named: list[str] = []

        def read(path: str) -> bytes:
            named.append(path)
            return read_bounded(self._resolve(path), FILE_BYTES_MAX)

        try:
            return candidate(text, self.path, read, self._env)
        finally:
            self._named = tuple(named)

    def _resolve(self, path: str) -> str:
        return os.path.join(os.path.dirname(self.path), path)


def candidate(text: bytes, name: str, read: Callable[[str], bytes], env: Mapping[str, str]) -> Candidate:
    """Load `text`. Raises PolicyError."""
    loaded = load(text, name=name, read=read, env=env)
    return Candidate(loaded, text, source_of(text, loaded.files))


def problem(file: str, message: str) -> Problem:
    """One that concerns the policy as a whole."""
    return Problem(file, 0, 0, "", message)


def _mark(path: str) -> Mark | None:
    try:
        facts = os.stat(path)
    except (OSError, ValueError):
        return None
    return Mark(facts.st_mtime_ns, facts.st_size, facts.st_ino, facts.st_dev)
