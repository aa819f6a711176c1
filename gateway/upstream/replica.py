"""One address of a backend: what is sent there and how it is doing."""

from __future__ import annotations

from typing import Protocol, final
from urllib.parse import urlsplit

from gateway.upstream.balance import seed
from gateway.upstream.base import Ask
from gateway.upstream.breaker import Breaker
from gateway.wire.base import RequestSender
from policies import schema


class Connections(RequestSender, Protocol):
    """A pool that can be retired."""

    def close(self) -> None:
        """Close idle connections; requests under way end as they would have, later ones are still served."""
        ...


@final
class Replica:
    """The bytes of every request's head that never change are made once."""

    __slots__ = ("_after_path", "_before_path", "breaker", "connections", "outstanding", "ready", "seed", "url")

    def __init__(self, url: str, connections: Connections, breaker: schema.Breaker, api_key: str | None) -> None:
        """Raises ValueError for an address or a key that cannot stand in a request's head."""
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        lines = f" HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        if api_key is not None:
            if not (api_key.isascii() and api_key.isprintable()):
                raise ValueError("an api_key holds characters that no header may carry")
            lines += f"authorization: Bearer {api_key}\r\n"
        self.url = url
        self.connections = connections
        self.breaker = Breaker(breaker)
        self.seed = seed(url)
        self.ready = True
        """Until a probe says otherwise."""
        self.outstanding = 0
        """Attempts under way."""
        self._before_path = b"POST " + parts.path.rstrip("/").encode("ascii")
        self._after_path = lines.encode("ascii")

    def request(self, ask: Ask) -> tuple[bytes, ...]:
        """The whole request: head and body, the body's parts untouched."""
        body = ask.body
        length = 0
        for part in body:
            length += len(part)
        # Joined, since formatting the parts costs three times as much.
        head = b"".join((self._before_path, ask.path, self._after_path, ask.headers, b"content-length: %d\r\n\r\n" % length))
        return (head, *body)

    def usable(self, now: float) -> bool:
        breaker = self.breaker
        return self.ready and (breaker.opened_at is None or breaker.allows(now))
