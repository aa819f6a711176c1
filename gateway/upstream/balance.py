"""Which replica gets a call. Candidates are ready, not broken and not excluded; there is at least one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Final, Literal, Protocol

LOAD_BOUND_RATIO: Final = 1.25
"""How far above the average a replica's load may go before a prompt is sent to the next one in its order."""

_MASK: Final = (1 << 64) - 1


class Candidate(Protocol):
    """What a balancer may know of a replica."""

    outstanding: int
    seed: int


class Balancer(Protocol):
    """`balance` of a backend."""

    def choose(self, candidates: Sequence[Candidate], affinity: int) -> int:
        """Index of the chosen one."""
        ...


class LeastOutstanding:
    """The one with the fewest calls under way; equals take turns."""

    def __init__(self) -> None:
        self._turn = -1

    def choose(self, candidates: Sequence[Candidate], affinity: int) -> int:
        count = len(candidates)
        self._turn = first = (self._turn + 1) % count
        best = first
        least = candidates[first].outstanding
        for step in range(1, count):
            index = (first + step) % count
            if candidates[index].outstanding < least:
                best, least = index, candidates[index].outstanding
        return best


class RoundRobin:
    """Each in turn."""

    def __init__(self) -> None:
        self._turn = -1

    def choose(self, candidates: Sequence[Candidate], affinity: int) -> int:
        self._turn = (self._turn + 1) % len(candidates)
        return self._turn


class PrefixHash:
    """Prompts that begin alike go where their prefix is cached: rendezvous hashing, so that a replica that goes moves only its own
    prompts, with bounded loads, so that a popular prefix does not drown one replica. A prompt without affinity (0) goes to the
    least busy."""

    def __init__(self) -> None:
        self._else = LeastOutstanding()

    def choose(self, candidates: Sequence[Candidate], affinity: int) -> int:
        if not affinity:
            return self._else.choose(candidates, affinity)
        total = 1 + sum(candidate.outstanding for candidate in candidates)
        bound = math.ceil(LOAD_BOUND_RATIO * total / len(candidates))
        best, highest = 0, -1
        for index, candidate in enumerate(candidates):
            if candidate.outstanding < bound and (weight := _mix(candidate.seed ^ (affinity & _MASK))) > highest:
                best, highest = index, weight
        return best


def _mix(value: int) -> int:
    """Spread 64 bits over 64 bits: two rounds of multiply and fold (the shape of a 64-bit hash finaliser)."""
    value = ((value ^ (value >> 32)) * 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 29)) * 0xD6E8FEB86659FD93) & _MASK
    return value ^ (value >> 32)


def seed(url: str) -> int:
    """64 bits that name a replica, the same in every process."""
    return int.from_bytes(hashlib.sha256(url.encode()).digest()[:8], "big")


def balancer(name: Literal["least_outstanding", "prefix_hash", "round_robin"]) -> Balancer:
    """A new balancer by its name in the policy."""
    match name:
        case "least_outstanding":
            return LeastOutstanding()
        case "round_robin":
            return RoundRobin()
        case "prefix_hash":
            return PrefixHash()
