"""The files that a policy names, as a worker reads them: by their hash, from the folder that the controller has put them in."""

from __future__ import annotations

import hashlib
import os


def read_named(folder: str, digest: str) -> bytes:
    """The content whose SHA-256 this is. Raises OSError where it is not there, ValueError where it is damaged."""
    with open(os.path.join(folder, digest), "rb") as file:
        data = file.read()
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"the stored file {digest} is damaged")
    return data
