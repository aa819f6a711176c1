"""Requests with a few bytes changed, read by `gateway.wire` and by h11: who disagrees? `python -m loadtests.mutations [--seconds 60]`.

A message that two readers take for different requests, or that ends in different places for them, is how requests are smuggled. So each
mutant is read whole, in random pieces, and by a reader that has just learned the head before it was changed (all three must be the same),
and by h11 (the same, or a difference that is argued in `ARGUED`). That Headgate refuses what h11 takes is counted and is no fault.

Prints JSON: what was read, how often the readers differed and why. Exit code 1 where a difference is not argued, where anything raised,
or where one read took longer than `READ_S`. The seed makes the run; seconds are of CPU.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import re
import sys
import time
from typing import Any, TypeAlias

import h11

from gateway.wire.base import ServerLimits
from gateway.wire.request_reader import RequestReader

READ_S = 1.0
EXAMPLES_MAX = 5
"""Mutants shown of each kind of difference that is not argued."""
LIMITS = ServerLimits(body_bytes_max=100_000)

Outcome: TypeAlias = tuple[Any, ...]

SEEDS = (
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b'POST /v1/x?q=1 HTTP/1.1\r\nHost: h:80\r\nContent-Length: 11\r\nAuthorization: Bearer abc\r\n\r\n{"a": 12345',
    b"POST /v1/x HTTP/1.1\r\nhost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nt: v\r\n\r\n",
    b"POST http://h:1/p?q HTTP/1.1\r\nHost: other\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc",
    b"PUT /a%20b HTTP/1.0\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab",
    b"HEAD /x HTTP/1.1\r\nHost: [::1]:80\r\nX-A: 1\r\nX-A: 2\r\nAccept: a, b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody",
)
LINES = (
    b"Content-Length: 5\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: 0x5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding:\tchunked\r\n",
    b"Transfer-Encoding: chunked\n",
    b" folded\r\n",
    b"Host: evil\r\n",
    b"X: a\rb\r\n",
    b": empty\r\n",
    b"Upgrade: h2c\r\nConnection: upgrade\r\n",
)
BYTES = b'\r\n\t \0:;,0123456789abcdefAXF\x7f\x80\xff\x0b\x0c"%/-+'

ARGUED = (
    (re.compile(rb"(?:\r?\n)+"), "no request line received", "empty lines before a request are to be ignored (RFC 9112, 2.2)"),
    (
        re.compile(rb"[\r\n]*[A-Z]+ +[^ ]+ +HTTP/1\.[01]\r\n"),
        "illegal request line",
        "more than one space in the request line, or a CR before it, may be taken (RFC 9112, 3 and 2.2); the same method and target are "
        "read, and what goes to a backend is written anew",
    ),
)
"""Where Headgate takes what h11 refuses: how the message begins, what h11 says, and why it is no harm."""
DECLINED = (b"upgrade", b"connection")
"""An upgrade that was offered is taken out of the fields, and with it what `connection` says of it (RFC 9110, 7.8)."""


def mutant(seed: bytes, chance: random.Random) -> bytes:
    """`seed` with one to four changes."""
    data = bytearray(seed)
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
            lines = bytes(data).split(b"\r\n")
            lines.insert(chance.randrange(1, len(lines) + 1), chance.choice(LINES).removesuffix(b"\r\n"))
            data = bytearray(b"\r\n".join(lines))
        elif kind == 5:
            lines = bytes(data).split(b"\r\n")
            lines.insert(chance.randrange(len(lines)), chance.choice(lines))
            data = bytearray(b"\r\n".join(lines))
        else:
            other = chance.choice(SEEDS)
            data[at:at] = other[chance.randrange(len(other)) :][: chance.randint(1, 30)]
    return bytes(data)


def outcome(reader: RequestReader) -> Outcome:
    """What came of the first message."""
    if reader.ready:
        first = reader.ready[0]
        return "request", first.method, first.path, first.query, first.headers, first.body
    return ("refused", reader.fault.message) if reader.fault is not None else ("waiting",)


def ours(data: bytes, cuts: list[int], taught: bytes = b"") -> Outcome:
    reader = RequestReader(LIMITS, "")
    if taught:
        reader.feed(taught, 0.0)
        if not (reader.ready and reader.ready[0].keep_alive) or reader.fault is not None or reader.begun:
            return ("not taught",)
        reader.ready.clear()
    last = 0
    for at in [*sorted(cuts), len(data)]:
        if at > last and reader.fault is None and not reader.ready:
            reader.feed(data[last:at], 1.0)
            last = at
    found = outcome(reader)
    reader.close()
    return found


def theirs(data: bytes) -> Outcome:
    peer = h11.Connection(h11.SERVER, max_incomplete_event_size=1_000_000)
    head: h11.Request | None = None
    body = b""
    try:
        peer.receive_data(data)
        while True:
            event = peer.next_event()
            if isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                return "request", head.method, head.target, [(bytes(name), bytes(value)) for name, value in head.headers], body
            else:
                return ("waiting",)
    except h11.RemoteProtocolError as error:
        return "refused", str(error)


def difference(mine: Outcome, peer: Outcome) -> str:
    """In what two readings as a request differ; "" where they do not."""
    _, method, path, query, headers, body = mine
    _, peer_method, target, fields, peer_body = peer
    if method != peer_method:
        return "method"
    if body != peer_body:
        return "body"
    joined: dict[bytes, bytes] = {}
    for name, value in fields:
        joined[name] = joined[name] + b", " + value if name in joined else value
    if target.startswith(b"/"):
        if path + (b"?" + query if query or target.endswith(b"?") else b"") != target:
            return "target"
    else:
        joined.pop(b"host", None)
        headers = {name: value for name, value in headers.items() if name != b"host"}
    if b"upgrade" in joined and b"upgrade" not in headers:
        joined = {name: value for name, value in joined.items() if name not in DECLINED}
        # The head is read again without it, which trims a list that ends in nothing.
        headers = {name: value for name, value in headers.items() if name not in DECLINED}
        joined = {name: value.rstrip() for name, value in joined.items()}
    coding = b"transfer-encoding"
    if coding in headers:  # h11 hands it on in lower case
        headers = headers | {coding: headers[coding].lower()}
    return "" if headers == joined else "headers"


def same(one: Outcome, other: Outcome) -> bool:
    """Of a message that is refused another fault may be found first."""
    return one == other or one[0] == other[0] == "refused"


def judge(data: bytes, seed: bytes, chance: random.Random) -> tuple[str, str, bool]:
    """(kind of difference, detail, whether it is a fault); kind is "" where all readers agree."""
    mine = ours(data, [])
    cuts = [chance.randrange(len(data) + 1) for _ in range(chance.randint(1, 8))]
    if not same(pieces := ours(data, cuts), mine):
        return "pieces", f"{mine[0]} whole, {pieces[0]} in pieces", True
    taught = ours(data, [], seed)
    if taught[0] != "not taught" and not same(taught, mine):
        return "taught", f"{mine[0]} at first, {taught[0]} with a known head", True
    peer = theirs(data)
    if mine[0] == "refused" or (mine[0] == "waiting" and peer[0] == "refused"):
        return ("", "", False) if mine[0] == peer[0] else (f"{mine[0]}, h11 {peer[0]}", mine[1] if len(mine) > 1 else peer[1], False)
    if mine[0] == peer[0] == "waiting":
        return "", "", False
    detail = difference(mine, peer) if mine[0] == peer[0] == "request" else (peer[1] if peer[0] == "refused" else "")
    if mine[0] == peer[0] == "request" and not detail:
        return "", "", False
    if (mine[0], peer[0]) == ("request", "refused"):
        for begins, says, why in ARGUED:
            if begins.match(data) and peer[1].startswith(says):
                return "argued", why, False
    return f"{mine[0]}, h11 {peer[0]}", detail, True


def run(seconds: float, seed: int) -> dict[str, Any]:
    """Mutants for so many seconds of CPU."""
    chance = random.Random(seed)
    seen: collections.Counter[str] = collections.Counter()
    faults: dict[str, list[str]] = {}
    differences: collections.Counter[str] = collections.Counter()
    begun = time.process_time()
    while (now := time.process_time()) - begun < seconds:
        original = chance.choice(SEEDS)
        data = mutant(original, chance)
        seen["mutants"] += 1
        try:
            kind, detail, fault = judge(data, original, chance)
        except Exception as error:
            kind, detail, fault = "raised", repr(error), True
        if time.process_time() - now > READ_S:
            kind, detail, fault = "slow", "", True
        if kind:
            differences[f"{kind}: {detail}" if detail else kind] += 1
        if fault:
            examples = faults.setdefault(f"{kind}: {detail}", [])
            if len(examples) < EXAMPLES_MAX:
                examples.append(repr(data))
    return {
        "seed": seed,
        "cpu_s": round(time.process_time() - begun, 1),
        **seen,
        "differences": dict(differences.most_common()),
        "faults": faults,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    if not 0 < args.seconds <= 24 * 3600:
        parser.error("--seconds is above 0 and at most a day")
    found = run(args.seconds, args.seed)
    print(json.dumps(found, indent=1))
    return int(bool(found["faults"]))


if __name__ == "__main__":
    sys.exit(main())
