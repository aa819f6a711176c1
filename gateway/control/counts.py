"""Carries what the workers have counted over a restart of the controller: a small file, written about once a second while it
changes. It need not outlive the machine: what begins with the whole gateway is counted from nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os

import msgspec

from gateway.control.policy_file import read_bounded
from gateway.telemetry.metrics import Counted, Exposition

log = logging.getLogger(__name__)

COUNTS_BYTES_MAX = 64 * 1024 * 1024
"""Of what is read back; far above what the fuses of `telemetry` let workers count."""


class CountsFile:
    """The counts of one life of the gateway (`run`) in the state folder."""

    def __init__(self, state_dir: str, run: str) -> None:
        self._path = os.path.join(state_dir, "counts.msgpack")
        self._run = run
        self._saved = b""
        self._failing = False

    def restore(self, exposition: Exposition) -> None:
        """Give `exposition` what the controller before has saved, if it belonged to this life. Blocks; never raises."""
        try:
            counted = msgspec.msgpack.decode(read_bounded(self._path, COUNTS_BYTES_MAX), type=Counted)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            log.warning("what workers had counted is lost", extra={"why": str(error)})
            return
        if counted.run == self._run:
            exposition.restore(counted)

    async def save(self, exposition: Exposition) -> None:
        """Write what has changed since the last time. A disk that fails is told of once; the counts go on in memory."""
        data = msgspec.msgpack.encode(exposition.checkpoint(self._run))
        if data == self._saved:
            return
        try:
            await asyncio.to_thread(replace_file, self._path, data)
        except OSError as error:
            if not self._failing:
                log.error("counts cannot be saved: a restart of the controller would lose some", extra={"why": str(error)})
            self._failing = True
        else:
            self._saved, self._failing = data, False


def replace_file(path: str, data: bytes) -> None:
    """Write a small file whole or not at all; only its owner may read it. Blocks; raises OSError."""
    draft = f"{path}.draft"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
    os.rename(draft, path)
