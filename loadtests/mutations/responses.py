"""Responses: what a backend sends, read by `gateway.wire.client_connection` on a kept connection and by h11 as a client.

Each is asked for with a method, and then the backend closes or says no more. Where the connection is kept, a second request is asked on
it and given a good answer, which must be read as what it is: whatever is left of the first must not be in it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import h11
import msgspec

from gateway.wire.base import ClientLimits
from gateway.wire.client_connection import ClientConnection
from loadtests.mutations.judging import FRAMING_LINES, Case, Outcome, Verdict, joined, mutant
from tests.gateway.wire.rig import Listener, PoolRig

LIMITS = ClientLimits()
SECOND = b"HTTP/1.1 203 Second\r\nContent-Length: 6\r\nX-Second: 2\r\n\r\nsecond"
SEEDS = (
    (b"GET", b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"a": 12345'),
    (b"POST", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nt: v\r\n\r\n"),
    (
        b"POST",
        b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\ndata: {"x": 12}\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n',
    ),
    (
        b"POST",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0A\r\n\r\n3\r\nabc\r\n\r\n"
        + b"3\r\ndef\r\n" * 6
        + b"0\r\n\r\n",
    ),
    (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\nX-A: 2\r\n\r\n"),
    (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (b"POST", b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n"),
    (b"GET", b'HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: "a"\r\n\r\n'),
    (b"POST", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
    (b"GET", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 429 Too Many\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"),
    (b"GET", b"HTTP/1.0 200 OK\r\nServer: a, b\r\n\r\nuntil the end"),
    (b"POST", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nbody"),
    (b"POST", b"HTTP/1.1 500 Oops\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody"),
)
LINES = (
    *FRAMING_LINES,
    b"Transfer-Encoding: chunked, chunked\r\n",
    b"Transfer-Encoding: chunked \r\n",
    b"Connection: close\t\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: a, Close\r\n",
    b"0\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc\r\n",
)
CLOSED = "a connection may be closed after any response"
KEPT = "an answer of HTTP/1.0 may ask to keep the connection (RFC 9112, 9.3)"
EMPTY_LINES = "empty lines before or after a response are skipped: they have nothing that could be told to anybody"
TIDIED = (
    (re.compile(rb"(?:\A|(?<=\r\n\r\n))[\r\n]+(?=HTTP/)"), b"", EMPTY_LINES),
    (
        re.compile(rb"(?<=HTTP/1\.[01] [1-9][0-9][0-9] )[^\r\n]*[\x00\x0b\x0c][^\r\n]*"),
        b"Reason",
        "of a reason phrase nothing is kept, whatever bytes it has: clients are told one of our own",
    ),
    (
        re.compile(rb"(\r\n0+(?:;[^\r\n]*)?\r\n)(?:[^\r\n:]+:[^\r\n]*\r\n)+(?=\r\n)"),
        rb"\1",
        "trailers are read over: nothing that they say is heeded or told to anybody",
    ),
)
"""What h11 refuses, how it is put right, and why that is no harm: as long as both then read what Headgate read before."""
OPEN = ("waiting", "cut")
"""Not whole: more is expected, or would have been."""


class Responses:
    """`judging.Side`. An outcome: how it ended, why, status, fields and body as far as they were told, whether the connection is kept;
    of h11 also what it read no more, and the version."""

    def case(self, chance: random.Random) -> Case:
        method, original = chance.choice(SEEDS)
        head, rest = b"", original
        if (end := original.find(b"\r\n\r\n") + 4) < len(original) and chance.random() < 0.5:
            head, rest = original[:end], original[end:]  # what follows the head alone: few changes of a head leave a body to be read
        data = head + mutant(rest, chance, LINES, [each for _, each in SEEDS])
        return Case(original, data, method, chance.random() < 0.5)

    def ours(self, case: Case, cuts: Sequence[int] = (), *, taught: bool = False) -> Outcome:
        rig = PoolRig(LIMITS)
        if taught:
            teacher, _ = asked(rig, b"GET")
            teacher.data_received(case.original)
            teacher.connection_lost(None)
            if rig.pool.known is None:
                return ("not taught",)
        connection, listener = asked(rig, case.method)
        last = 0
        for at in [*sorted(cuts), len(case.data)]:
            if at > last:
                hears(connection, case.data[last:at])
                last = at
        if case.closes and connection.usable:
            connection.eof_received()
            connection.connection_lost(None)
        kept = rig.pool.idle == 1
        found = (*outcome(listener), listener.status, listener.headers, listener.body, kept)
        if kept and (second := on_kept(rig, connection)) != (203, b"second", True):
            raise AssertionError(f"the next answer on the connection was read as {second}, after {found}")
        if connection.usable:
            connection.connection_lost(None)
        return found

    def theirs(self, case: Case) -> Outcome:
        peer = h11.Connection(h11.CLIENT, max_incomplete_event_size=1_000_000)
        peer.send(h11.Request(method=case.method, target=b"/", headers=[(b"host", b"h")]))
        peer.send(h11.EndOfMessage())
        head: h11.Response | None = None
        body, word, why, kept = b"", "waiting", "", False
        feeds = [case.data] * bool(case.data) + [b""] * case.closes
        try:
            for each in feeds:
                peer.receive_data(each)
                while not isinstance(event := peer.next_event(), type) and not isinstance(event, h11.ConnectionClosed):
                    if isinstance(event, h11.Response):
                        head = event
                    elif isinstance(event, h11.Data):
                        body += bytes(event.data)
                    elif isinstance(event, h11.EndOfMessage):
                        word, kept = "response", peer.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}
                        break
                if word == "response":
                    break
        except h11.RemoteProtocolError as error:
            word, why = ("cut" if case.closes and each == b"" else "refused"), str(error)
        surplus = peer.trailing_data[0]
        if head is None:
            return word, why, 0, {}, body, False, surplus, b""
        fields = joined([(bytes(name), bytes(value)) for name, value in head.headers])
        return word, why, head.status_code, fields, body, kept and not case.closes and not surplus, surplus, head.http_version

    def same(self, case: Case, one: Outcome, other: Outcome) -> bool:
        """Of a response that is refused another fault may be found first, and earlier: what was told by then must be the same. An empty
        line after a response closes a connection that is idle by then, and is skipped in the same read."""
        if one[0] == other[0] == "refused":
            return (one[2:4] == other[2:4] and is_beginning(one[4], other[4])) if one[2] and other[2] else True
        return one == other or (one[:5] == other[:5] and case.data[-1:] in (b"\r", b"\n"))

    def compare(self, case: Case, mine: Outcome, peer: Outcome) -> Verdict:
        kind = f"{mine[0]}, h11 {peer[0]}"
        if mine[0] == "refused" or (mine[0] in OPEN and peer[0] == "refused"):
            return Verdict() if mine[0] == peer[0] else Verdict(kind, mine[1] or peer[1])
        if mine[0] == peer[0] and not (detail := difference(mine, peer)):
            return Verdict()
        if mine[0] != peer[0]:
            detail = peer[1]
        why = CLOSED if detail == "closed, h11 keeps" else self._argument(case, mine, peer)
        return Verdict("argued", why) if why else Verdict(kind, detail, True)

    def _argument(self, case: Case, mine: Outcome, peer: Outcome) -> str:
        """Why a difference is no harm; "" where it may be."""
        if mine[0] == peer[0] == "response" and mine[:5] == (*peer[:1], mine[1], *peer[2:5]):
            if peer[6] and not peer[6].strip(b"\r\n"):
                return EMPTY_LINES
            return KEPT if peer[7] == b"1.0" and b"keep-alive" in mine[3].get(b"connection", b"").lower() else ""
        if mine[0] in ("response", *OPEN) and peer[0] == "refused":
            for pattern, instead, why in TIDIED:
                for count in (1, 0):
                    tidy = msgspec.structs.replace(case, data=pattern.sub(instead, case.data, count))
                    read = self.ours(tidy)
                    if tidy.data != case.data and read[:5] == mine[:5] and not self.compare(tidy, read, self.theirs(tidy)).fault:
                        return why
        return ""


def asked(rig: PoolRig, method: bytes) -> tuple[ClientConnection, Listener]:
    """A new connection on which a request was sent."""
    connection, _ = rig.connection()
    listener = Listener()
    rig.pool.request((b"%b / HTTP/1.1\r\nhost: h\r\n\r\n" % method,), listener, connect_timeout_s=1)
    return connection, listener


def hears(connection: ClientConnection, data: bytes) -> None:
    """As the event loop would: nothing more is read from a connection that was aborted."""
    if connection.usable:
        connection.data_received(data)


def outcome(listener: Listener) -> tuple[str, str]:
    """How it ended, and why."""
    if listener.failure is not None:
        return ("refused" if listener.failure.kind == "protocol" else "cut"), listener.failure.message.removeprefix("backend:80: ")
    return ("response" if "end" in listener.seen else "waiting"), ""


def on_kept(rig: PoolRig, connection: ClientConnection) -> tuple[Any, ...]:
    """What is read of a good answer to a second request: status, body, and whether it ended."""
    listener = Listener()
    rig.pool.request((b"GET / HTTP/1.1\r\nhost: h\r\n\r\n",), listener, connect_timeout_s=1)
    hears(connection, SECOND)
    return listener.status, listener.body, listener.seen[-1:] == ["end"]


def is_beginning(one: bytes, other: bytes) -> bool:
    return one.startswith(other) or other.startswith(one)


def difference(mine: Outcome, peer: Outcome) -> str:
    """In what two readings of the same kind differ, as far as both were told; "" where they do not."""
    _, _, status, headers, body, kept = mine
    _, _, peer_status, fields, peer_body, peer_kept = peer[:6]
    if status != peer_status:
        return "status"
    coding = b"transfer-encoding"
    if coding in headers:  # h11 hands it on in lower case
        headers = headers | {coding: headers[coding].lower()}
    if headers != fields:
        return "headers"
    if body != peer_body:
        return "body"
    return "" if kept == peer_kept else ("keeps, h11 closes" if kept else "closed, h11 keeps")
