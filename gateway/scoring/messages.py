"""What is said to the scoring process and what it answers: frames of `gateway.link.framing` on a Unix socket in the state folder.

A detector goes by the SHA-256 of its artifact, and its bytes are read from the folder of the policy version that names it: what
was replaced on disk is another detector, and half of one is none.
"""

from __future__ import annotations

import os
from typing import Literal, TypeAlias

import msgspec

Result: TypeAlias = Literal["ok", "unavailable", "late", "full", "failed"]
"""`unavailable`: the text has no word or sign. `late`: its deadline was over before its turn came. `full`: too many wait already.
`failed`: the detector cannot be read, or failed."""


class Open(msgspec.Struct, frozen=True, tag="open"):
    """Read a detector, so that it is ready when it is asked; answered by `Opened`."""

    digest: str
    folder: str


class Question(msgspec.Struct, frozen=True, tag="question"):
    """Score a guard text; answered by `Finding`."""

    number: int
    """Of this connection."""
    digest: str
    folder: str
    """Where the detector is read from, should it not be at hand."""
    text: str
    deadline: float
    """`time.monotonic` of this machine; nobody waits for the answer after it."""


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """The detector is ready; or `error` says why not."""

    digest: str
    error: str = ""


class Finding(msgspec.Struct, frozen=True, tag="finding"):
    """What the detector found in the text of that question. The threshold is the policy's, and the worker's business."""

    number: int
    result: Result
    score: float = 0.0
    energy: float = 0.0


Up: TypeAlias = Open | Question
Down: TypeAlias = Opened | Finding


def scoring_path(state_dir: str) -> str:
    """Where the scoring process of this state folder listens."""
    return os.path.join(state_dir, "ood.sock")
