"""What both sides of HTTP have in common here: how a message is changed, who reads it, and what of their readings is a fault."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

BYTES = b'\r\n\t \0:;,0123456789abcdefAXF\x7f\x80\xff\x0b\x0c"%/-+'
FRAMING_LINES = (
    b"Content-Length: 5\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: 0x5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding:\tchunked\r\n",
    b"Transfer-Encoding: chunked\t\r\n",
    b"Transfer-Encoding: chunked\n",
    b" folded\r\n",
    b"X: a\rb\r\n",
    b": empty\r\n",
    b"Upgrade: h2c\r\nConnection: upgrade\r\n",
)
"""Fields that smuggle, in a request and in a response alike."""

Outcome: TypeAlias = tuple[Any, ...]
"""What a reader made of a message: a word first (`request` or `response`, `refused`, `waiting`, `cut`), then what was read."""


class Case(msgspec.Struct, frozen=True):
    """One message to be read. `method` and `closes` are of responses: what was asked, and whether the backend then closes."""

    original: bytes
    """Before it was changed."""
    data: bytes
    method: bytes = b""
    closes: bool = False


class Verdict(msgspec.Struct, frozen=True):
    """`kind` is "" where all readers agree."""

    kind: str = ""
    detail: str = ""
    fault: bool = False


class Side(Protocol):
    """Requests or responses."""

    def case(self, chance: random.Random) -> Case:
        """The next message."""
        ...

    def ours(self, case: Case, cuts: Sequence[int] = (), *, taught: bool = False) -> Outcome:
        """Headgate's reading, cut into pieces; `taught`: by a reader that has just learned the original's head, or `("not taught",)`."""
        ...

    def theirs(self, case: Case) -> Outcome:
        """h11's."""
        ...

    def same(self, case: Case, one: Outcome, other: Outcome) -> bool:
        """Of two readings of Headgate's."""
        ...

    def compare(self, case: Case, mine: Outcome, peer: Outcome) -> Verdict:
        """Headgate's against h11's. A difference that is argued is no fault."""
        ...


def mutant(original: bytes, chance: random.Random, lines: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """`original` with one to four changes: bytes, one of `lines`, a line twice, a piece of one of the `others`."""
    data = bytearray(original)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(7)
        if kind == 0 and at < len(data):
            data[at] = chance.choice(BYTES)
        elif kind == 1:
            data[at:at] = bytes([chance.choice(BYTES)])
        elif kind == 2:
            del data[at : at + chance.randint(1, 3)]
        elif kind == 3 and at < len(data):
            data[at] = chance.randrange(256)
        elif kind == 4:
            found = bytes(data).split(b"\r\n")
            found.insert(chance.randrange(1, len(found) + 1), chance.choice(lines).removesuffix(b"\r\n"))
            data = bytearray(b"\r\n".join(found))
        elif kind == 5:
            found = bytes(data).split(b"\r\n")
            found.insert(chance.randrange(len(found)), chance.choice(found))
            data = bytearray(b"\r\n".join(found))
        else:
            other = chance.choice(others)
            data[at:at] = other[chance.randrange(len(other)) :][: chance.randint(1, 30)]
    return bytes(data)


def places(data: bytes, chance: random.Random) -> list[int]:
    """Where to cut it: anywhere, or, as senders do, between lines, where a reader that looks for whole chunks begins."""
    if chance.random() < 0.5:
        return [at + 1 for at, byte in enumerate(data) if byte == 0x0A and chance.random() < 0.5]
    return [chance.randrange(len(data) + 1) for _ in range(chance.randint(1, 8))]


def judge(side: Side, case: Case, chance: random.Random) -> Verdict:
    """Read it whole, in random pieces and with a known head, and by h11."""
    mine = side.ours(case)
    cuts = places(case.data, chance)
    if not side.same(case, pieces := side.ours(case, cuts), mine):
        return Verdict("pieces", f"{mine[0]} whole, {pieces[0]} in pieces", True)
    taught = side.ours(case, taught=True)
    if taught[0] != "not taught" and not side.same(case, taught, mine):
        return Verdict("taught", f"{mine[0]} at first, {taught[0]} with a known head", True)
    return side.compare(case, mine, side.theirs(case))


def joined(fields: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """h11's fields as Headgate keeps them."""
    made: dict[bytes, bytes] = {}
    for name, value in fields:
        made[name] = made[name] + b", " + value if name in made else value
    coding = b"transfer-encoding"
    return made | {coding: made[coding].lower()} if coding in made else made
