"""Which of a fixed number of buckets a unit falls into, and which exchanges are sampled. Frozen: a change reshuffles users.

The vectors in `tests/golden/hashing/buckets.json` are published, so that others can assign the same units to the same variants.
"""

from __future__ import annotations

from hashlib import md5, sha256
from typing import Literal

BUCKETS = 10_000

Hash = Literal["sha256", "md5_mod_100"]

CONTENT_RULE = "records.content"
"""The rule of `records.content.sample_percent`. Worker and controller both ask: they must mean the same exchanges."""


def bucket(salt: str, unit: str, hash: Hash = "sha256") -> int:
    """0..9999. `md5_mod_100` ignores the salt and gives 0..99, for teams that assign elsewhere in that way."""
    if hash == "md5_mod_100":
        return int(md5(unit.encode(), usedforsecurity=False).hexdigest(), 16) % 100
    return int.from_bytes(sha256(f"{salt}:{unit}".encode()).digest()[:8], "big") % BUCKETS


def sample(exchange_id: str, rule: str, percent: float) -> bool:
    """Whether this exchange is among the `percent` of 100 that a rule looks at: chance, but the same on every replay."""
    return bucket(rule, exchange_id) < percent * (BUCKETS / 100)
