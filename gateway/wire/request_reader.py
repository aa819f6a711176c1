"""Bytes in, requests out: the server's half of HTTP/1.1 parsing, without a socket.

httptools calls back while it parses, and turns whatever a callback raises into an error of the client's. So callbacks only
collect; the one thing they raise is `_Stop`, once the fault has been noted.
"""

from __future__ import annotations

import logging
from typing import Any, Final, NoReturn, final

import httptools

from gateway.wire.base import ServerLimits
from gateway.wire.heads import fields_bytes, is_host, split_target
from gateway.wire.known_head import KnownHead, learn
from gateway.wire.request import Request

log: Final = logging.getLogger(__name__)

# A second one of these changes who is asked, by whom, or where the message ends; two parsers might pick differently.
_NEVER_REPEATED: Final = frozenset((b"host", b"content-length", b"transfer-encoding", b"authorization", b"content-type"))


@final
class Fault:
    """Why nothing more can be read from a client: the status that it is answered with, and a sentence."""

    __slots__ = ("message", "status")

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message


class _Stop(Exception):  # noqa: N818  (it is how a callback says "enough", not an error)
    pass


@final
class KnownRequest:
    """What a head asked for, and the limits that it was read under."""

    __slots__ = ("head", "limits", "method", "path", "query")

    def __init__(self, head: KnownHead, request: Request, limits: ServerLimits) -> None:
        self.head = head
        self.limits = limits
        self.method = request.method
        self.path = request.path
        self.query = request.query


@final
class LastHead:
    """The head that was parsed last, of all the connections of a server: a client has the same on each of its own, and whoever asks first
    on a connection need neither parse it again nor keep it twice."""

    __slots__ = ("known",)

    def __init__(self) -> None:
        self.known: KnownRequest | None = None


@final
class RequestReader:
    """Parses what one client sends. After `feed`, complete requests wait in `ready`; after a `fault` it must not be fed again."""

    __slots__ = (
        "_body",
        "_headers",
        "_known",
        "_last",
        "_parser",
        "_peer",
        "_quiet",
        "_repeats",
        "_request",
        "_url",
        "begun",
        "continue_wanted",
        "fault",
        "in_body",
        "limits",
        "ready",
        "started",
    )

    def __init__(self, limits: ServerLimits, peer: str, last: LastHead | None = None) -> None:
        self.limits = limits
        """May be replaced between two requests, by `bound_by`."""
        self._peer = peer
        self._parser: Any = None
        """Only while it is needed: it takes a kibibyte, which an open stream would keep."""
        self._known: KnownRequest | None = None
        """Of the last request."""
        self._last = last or LastHead()
        self.ready: list[Request] = []
        self.fault: Fault | None = None
        self.started = 0.0
        """loop.time() of the first byte of the request being read."""
        self.continue_wanted = False
        """The client waits for `100 Continue` before it sends the body."""
        self._headers: dict[bytes, bytes] = {}
        """Of the request being read; once they are complete, its trailers, which nobody gets to see."""
        self._reset()

    def _reset(self) -> None:
        self.begun = False
        """Bytes of a request have come that is not complete."""
        self.in_body = False
        self._url = b""
        self._repeats = 0
        self._request: Request | None = None
        self._body: bytes | bytearray = b""
        self._quiet = 0
        """Bytes since the request's first, its head's end or the last piece of its body."""

    def bound_by(self, limits: ServerLimits) -> None:
        """Between two requests: these limits from here on."""
        if limits is not self.limits:
            self.limits = limits
            self._known = None

    def feed(self, data: bytes, now: float) -> None:
        """Take one read. Never raises."""
        first = not self.begun
        if first:
            self.started = now
            known = self._known or self._of_another()
            if known is not None:
                head = known.head
                body = head.body(data)
                if body is not None and len(body) <= self.limits.body_bytes_max:
                    self._known = known
                    self.ready.append(Request(known.method, known.path, known.query, head.headers(body), self._peer, now, body, head=head))
                    return
            self.begun = True
        self._parse(data, now)
        if first and len(self.ready) == 1 and not self.begun and self.fault is None:
            self._learn(data, self.ready[0])

    def _of_another(self) -> KnownRequest | None:
        """The head that another connection has had, where it was read under the same limits."""
        known = self._last.known
        return known if known is not None and known.limits is self.limits else None

    def _learn(self, data: bytes, request: Request) -> None:
        """The next request may well have the same head."""
        self._known = None
        if request.keep_alive and not request.http10 and b"expect" not in request.headers:
            head = request.head = learn(data, request.headers)
            if head is not None:
                self._known = self._last.known = KnownRequest(head, request, self.limits)
                self._parser = None  # another may follow, so that a new one would go on where this one is

    def _parse(self, data: bytes, now: float) -> None:
        # httptools keeps an unfinished field to itself, so a head or trailer that never ends is seen only here.
        self._quiet += len(data)
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :], now)
        except httptools.HttpParserCallbackError as error:
            if self.fault is None:
                log.error("a parser callback failed", exc_info=error.__context__ or error)
                self.fault = Fault(500, "The gateway failed to read the request.")
        except httptools.HttpParserError as error:
            self.fault = Fault(400, f"Malformed HTTP request: {error}.")
        else:
            if self._quiet > self.limits.head_bytes_max:
                self.fault = Fault(431, "The request's headers are too large.")

    def close(self) -> None:
        """Break the cycle between parser and callbacks."""
        self._parser = None

    def _stop(self, status: int, message: str) -> NoReturn:
        self.fault = Fault(status, message)
        raise _Stop

    def on_url(self, piece: bytes) -> None:
        self.begun = True  # also where the same read has just completed another
        self._url += piece
        if len(self._url) > self.limits.uri_bytes_max:
            self._stop(414, "The request's target is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        headers = self._headers
        if name in headers:
            self._repeated(name, value)
        else:
            headers[name] = value.rstrip()  # httptools leaves trailing optional white space

    def _repeated(self, name: bytes, value: bytes) -> None:
        self._repeats += 1
        if self._repeats > self.limits.headers_max:
            self._stop(431, "The request has too many header fields.")
        if name in _NEVER_REPEATED:
            self._stop(400, f"The request repeats the header {name.decode('latin-1')}.")
        self._headers[name] += b", " + value.rstrip()

    def on_headers_complete(self) -> None:
        limits, headers, url = self.limits, self._headers, self._url
        if len(headers) + self._repeats > limits.headers_max:
            self._stop(431, "The request has too many header fields.")
        # The sum is only worth its time where what was read could be too much.
        if self._quiet > limits.head_bytes_max and len(url) + fields_bytes(headers) > limits.head_bytes_max:
            self._stop(431, "The request's headers are too large.")
        method: bytes = self._parser.get_method()
        version = self._parser.get_http_version()
        http10: bool = version == "1.0"
        if version != "1.1" and not http10:
            self._stop(505, "Only HTTP/1.1 and HTTP/1.0 are supported.")
        if method == b"CONNECT":
            self._stop(405, "CONNECT is not supported.")
        target = split_target(method, url)
        if target is None:
            self._stop(400, "The request's target is not a path.")
        host = headers.get(b"host")
        if host is None:
            if not http10:
                self._stop(400, "The request has no Host header.")
        elif not is_host(host):
            self._stop(400, "The request's Host header is not a host.")
        length = headers.get(b"content-length")
        if length is not None and int(length) > limits.body_bytes_max:
            self._stop(413, f"The request's body is larger than {limits.body_bytes_max} bytes.")
        if b"transfer-encoding" in headers or b"expect" in headers:
            self._check_framing(headers, length, http10)
        if b"upgrade" in headers and self._parser.should_upgrade():
            return  # feed will hear of it
        path, query, authority = target
        if authority:
            headers[b"host"] = authority
        self._request = Request(method, path, query, headers, self._peer, self.started, b"", http10)
        self._headers = {}
        self._quiet = 0
        self.in_body = True

    def _check_framing(self, headers: dict[bytes, bytes], length: bytes | None, http10: bool) -> None:
        """RFC 9112 section 6. llhttp has already refused a message with both, or with a length that is not a number."""
        coding = headers.get(b"transfer-encoding")
        if coding is not None:
            if http10:
                self._stop(400, "HTTP/1.0 has no Transfer-Encoding.")
            if coding.lower() != b"chunked":
                self._stop(501, "Transfer-Encoding other than chunked is not supported.")
        expected = headers.get(b"expect")
        if expected is not None and not http10:
            if expected.lower() != b"100-continue":
                self._stop(417, "Only `Expect: 100-continue` can be met.")
            self.continue_wanted = coding is not None or (length is not None and length != b"0")

    def on_body(self, piece: bytes) -> None:
        self._quiet = 0
        self.continue_wanted = False
        if not self._body:
            self._body = piece  # mostly all of it
        elif isinstance(self._body, bytearray):
            self._body += piece
        else:
            # A list of pieces would cost many times the body where it comes in chunks of one byte.
            self._body = bytearray(self._body)
            self._body += piece
        if len(self._body) > self.limits.body_bytes_max:
            self._stop(413, f"The request's body is larger than {self.limits.body_bytes_max} bytes.")

    def on_message_complete(self) -> None:
        request = self._request
        if request is None:  # an upgrade: see _decline_upgrade
            return
        if len(self.ready) >= self.limits.pipelined_requests_max:
            self._stop(400, "Too many pipelined requests.")
        body = self._body
        request.body = body if isinstance(body, bytes) else bytes(body)
        request.keep_alive = self._parser.should_keep_alive()
        self.ready.append(request)
        if self._headers:
            self._headers = {}
        self._reset()

    def _decline_upgrade(self, rest: bytes, now: float) -> None:
        """Go on as if no upgrade had been asked for (RFC 9110 section 7.8 lets a server ignore it; some clients offer h2c
        with every first request). The parser has given up, so a new one gets the head again, without the offer."""
        headers = self._headers
        tokens = [token.strip().lower() for token in headers.pop(b"connection").split(b",")]
        del headers[b"upgrade"]
        headers[b"connection"] = b"close" if b"close" in tokens else b"keep-alive"
        method: bytes = self._parser.get_method()
        lines = [b"%b %b HTTP/1.1" % (method, self._url), *(b"%b: %b" % field for field in headers.items()), b"", rest]
        self._parser = httptools.HttpRequestParser(self)
        self._headers = {}
        self._reset()
        self.begun = True  # which keeps `started`
        self.feed(b"\r\n".join(lines), now)
