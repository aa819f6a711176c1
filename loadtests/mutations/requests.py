"""Requests: what a client sends, read by `gateway.wire.request_reader` and by h11 as a server."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import h11

from gateway.wire.base import ServerLimits
from gateway.wire.request_reader import LastHead, RequestReader
from loadtests.mutations.judging import FRAMING_LINES, Case, Outcome, Verdict, joined, mutant

LIMITS = ServerLimits(body_bytes_max=100_000)
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
    *FRAMING_LINES,
    b"Host: evil\r\n",
)
DECLINED = (b"upgrade", b"connection")
"""An upgrade that was offered is taken out of the fields, and with it what `connection` says of it (RFC 9110, 7.8)."""


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


class Requests:
    """`judging.Side`."""

    def case(self, chance: random.Random) -> Case:
        original = chance.choice(SEEDS)
        return Case(original, mutant(original, chance, LINES, SEEDS))

    def ours(self, case: Case, cuts: Sequence[int] = (), *, taught: bool = False) -> Outcome:
        last = LastHead()
        reader = RequestReader(LIMITS, "", last)
        if taught:
            reader.feed(case.original, 0.0)
            if not (reader.ready and reader.ready[0].keep_alive) or reader.fault is not None or reader.begun:
                return ("not taught",)
            reader.ready.clear()
            if len(case.data) % 2:  # every other one on a connection of its own
                reader = RequestReader(LIMITS, "", last)
        start = 0
        for at in [*sorted(cuts), len(case.data)]:
            if at > start and reader.fault is None and not reader.ready:
                reader.feed(case.data[start:at], 1.0)
                start = at
        found = outcome(reader)
        reader.close()
        return found

    def theirs(self, case: Case) -> Outcome:
        peer = h11.Connection(h11.SERVER, max_incomplete_event_size=1_000_000)
        head: h11.Request | None = None
        body = b""
        try:
            peer.receive_data(case.data)
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

    def same(self, case: Case, one: Outcome, other: Outcome) -> bool:
        """Of a message that is refused another fault may be found first."""
        return one == other or one[0] == other[0] == "refused"

    def compare(self, case: Case, mine: Outcome, peer: Outcome) -> Verdict:
        if mine[0] == "refused" or (mine[0] == "waiting" and peer[0] == "refused"):
            return Verdict() if mine[0] == peer[0] else Verdict(f"{mine[0]}, h11 {peer[0]}", mine[1] if len(mine) > 1 else peer[1])
        if mine[0] == peer[0] == "waiting":
            return Verdict()
        if mine[0] == peer[0] == "request":
            detail = difference(mine, peer)
            return Verdict("request, h11 request", detail, True) if detail else Verdict()
        for begins, says, why in ARGUED:
            if (mine[0], peer[0]) == ("request", "refused") and begins.match(case.data) and peer[1].startswith(says):
                return Verdict("argued", why)
        return Verdict(f"{mine[0]}, h11 {peer[0]}", peer[1] if peer[0] == "refused" else "", True)


def outcome(reader: RequestReader) -> Outcome:
    """What came of the first message."""
    if reader.ready:
        first = reader.ready[0]
        return "request", first.method, first.path, first.query, first.headers, first.body
    return ("refused", reader.fault.message) if reader.fault is not None else ("waiting",)


def difference(mine: Outcome, peer: Outcome) -> str:
    """In what two readings as a request differ; "" where they do not."""
    _, method, path, query, headers, body = mine
    _, peer_method, target, fields, peer_body = peer
    if method != peer_method:
        return "method"
    if body != peer_body:
        return "body"
    theirs = joined(fields)
    if target.startswith(b"/"):
        if path + (b"?" + query if query or target.endswith(b"?") else b"") != target:
            return "target"
    else:
        theirs.pop(b"host", None)
        headers = {name: value for name, value in headers.items() if name != b"host"}
    if b"upgrade" in theirs and b"upgrade" not in headers:
        theirs = {name: value for name, value in theirs.items() if name not in DECLINED}
        # The head is read again without it, which trims a list that ends in nothing.
        headers = {name: value for name, value in headers.items() if name not in DECLINED}
        theirs = {name: value.rstrip() for name, value in theirs.items()}
    coding = b"transfer-encoding"
    if coding in headers:  # h11 hands it on in lower case
        headers = headers | {coding: headers[coding].lower()}
    return "" if headers == theirs else "headers"
