"""The one outbound seam: ask a backend, hear its reply. `HttpUpstream` is the real one, `fake` the one for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, final

from policies.plan import CallError


@final
class Ask:
    """One call to a backend, ready to be sent to whichever replica is chosen."""

    __slots__ = ("affinity", "avoid", "body", "deadline", "headers", "path", "stream")

    def __init__(
        self,
        path: bytes,
        body: tuple[bytes, ...],
        headers: bytes,
        stream: bool,
        deadline: float,
        affinity: int = 0,
        avoid: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        """`/v1/chat/completions`."""
        self.body = body
        """Joined they are the request body; kept apart so that a large prompt is not copied. Empty once there is a reply."""
        self.headers = headers
        """Ready lines, each ending in CRLF: traceparent, x-request-id, accept. The upstream adds host, authorization,
        content-type and content-length."""
        self.stream = stream
        self.deadline = deadline
        """loop.time() after which the whole exchange is over."""
        self.affinity = affinity
        """Hash of the prompt's beginning, for `balance: prefix_hash`."""
        self.avoid = avoid
        """URLs of replicas that it goes to only where there is no other."""


@final
class Attempt:
    """One try at one replica. Times are loop.time()."""

    __slots__ = ("ended", "replica", "result", "started")

    def __init__(self, replica: str, started: float) -> None:
        self.replica = replica
        self.started = started
        self.ended = 0.0
        self.result = ""
        """"ok", or the error kind ("status:503" for a status) for which it was given up."""


class ReplyReceiver(Protocol):
    """Hears one call's reply. Retries have happened before anything is heard; after `on_head` there are none."""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None: ...
    def on_body(self, data: bytes) -> None: ...
    def on_end(self) -> None: ...
    def on_failure(self, error: CallError) -> None: ...


class UpstreamCall(Protocol):
    """A call under way."""

    attempts: list[Attempt]

    def cancel(self) -> None:
        """Stop it: nothing more is heard, the backend's connection is closed. Idempotent."""
        ...

    def content_seen(self) -> None:
        """The receiver has seen the first content: from here on `between_tokens` is the timeout, not `first_token`."""
        ...

    def fault(self, error: CallError) -> None:
        """The receiver found the reply broken (truncated, an error event): counts against the replica's breaker. A call
        that is still open is closed."""
        ...

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Upstream(Protocol):
    """One backend."""

    name: str

    def call(self, ask: Ask, receiver: ReplyReceiver) -> UpstreamCall:
        """Start a call. Never raises; a failure arrives through `on_failure`, always after this has returned."""
        ...

    def has_other(self, avoid: tuple[str, ...]) -> bool:
        """A replica that could be asked now is none of these."""
        ...

    def close(self) -> None:
        """Retire it: calls under way end as they would have, idle connections are closed, queued calls still go out."""
        ...

    def set_share(self, workers: int) -> None:
        """The limits of the machine are divided by so many live workers."""
        ...

    def set_replicas(self, ready: Mapping[str, bool]) -> None:
        """What the probes say, by replica URL; a replica that is not named has not been probed yet and counts as ready."""
        ...
