"""The controller's end of the scoring process: before a policy comes into force, the process has read its detectors."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from gateway.errors import LinkError
from gateway.link.framing import FrameReader, encode_frame
from gateway.scoring.messages import Down, Open, Opened

OPEN_WITHIN_S = 30.0
"""From asking for the process until it has read every detector of a policy; where nothing else runs it takes a second or two."""
RETRY_S = 0.05
READ_BYTES = 64 * 1024


async def open_detectors(path: str, digests: Mapping[str, str], folder: str, within_s: float = OPEN_WITHIN_S) -> list[str]:
    """Have the process at `path`, which may only just be starting, read these detectors (SHA-256 by name) from `folder`. Why not,
    for each that it cannot use; one line where it does not answer."""
    try:
        async with asyncio.timeout(within_s):
            while (errors := await _asked(path, digests, folder)) is None:  # noqa: ASYNC110 - another process is to appear
                await asyncio.sleep(RETRY_S)
    except TimeoutError:
        names = ", ".join(sorted(digests))
        return [f"the scoring process, which the detector {names} needs, did not answer within {within_s:g} s: see its log"]
    return [f"detector {name}: {errors[digest]}" for name, digest in digests.items() if errors[digest]]


async def _asked(path: str, digests: Mapping[str, str], folder: str) -> dict[str, str] | None:
    """The error of each digest, "" for none; None where the process is not there, or has gone meanwhile."""
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return None
    errors: dict[str, str] = {}
    frames = FrameReader[Down](msgspec.msgpack.Decoder(Down))
    try:
        for digest in set(digests.values()):
            writer.write(encode_frame(Open(digest, folder)))
        while len(errors) < len(set(digests.values())):
            data = await reader.read(READ_BYTES)
            if not data:
                return None
            for message in frames.feed(data):
                if isinstance(message, Opened):
                    errors[message.digest] = message.error
    except (OSError, LinkError):
        return None
    finally:
        writer.close()
    return errors
