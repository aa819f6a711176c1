"""The one outbound seam: ask a backend, hear its reply. `HttpUpstream` is the real one, `fake` the one for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from policies.plan import CallError


class Ask(msgspec.Struct, gc=False):
    """One call to a backend, ready to be sent to whichever replica is chosen."""

    path: bytes
    """`/v1/chat/completions`."""
    body: tuple[bytes, ...]
    """Joined they are the request body; kept apart so that a large prompt is not copied."""
    headers: bytes
    """Ready lines, each ending in CRLF: traceparent, x-request-id, accept. The upstream adds host, authorization,
    content-type and content-length."""
    stream: bool
    deadline: float
    """loop.time() after which the whole exchange is over."""
    affinity: int = 0
    """Hash of the prompt's beginning, for `balance: prefix_hash`."""


class Attempt(msgspec.Struct, gc=False):
    """One try at one replica. Times are loop.time()."""

    replica: str
    started: float
    ended: float = 0.0
    result: str = ""
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

    def close(self) -> None:
        """Retire it: calls under way end as they would have, idle connections are closed, queued calls still go out."""
        ...

    def set_share(self, workers: int) -> None:
        """The limits of the machine are divided by so many live workers."""
        ...

    def set_replicas(self, ready: Mapping[str, bool]) -> None:
        """What the probes say, by replica URL; a replica that is not named has not been probed yet and counts as ready."""
        ...
