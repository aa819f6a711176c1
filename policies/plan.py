"""The vocabulary between a policy and the gateway: what a policy may ask for, what it is told, and what it answers.

A policy is a generator: it yields verbs, is sent what came of each, and returns a verdict. It does no I/O, reads no clock
and draws no random number, so that a test, `headgate explain`, a replay and the live gateway drive the same code.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Literal, Protocol, TypeAlias

import msgspec

Endpoint: TypeAlias = Literal["chat", "completions", "embeddings", "responses", "messages"]

Reason: TypeAlias = Literal["primary", "ood", "low_confidence", "failover", "hedge", "manual"]
"""Why the backend that served was the one: `x-headgate-reason`."""

CALLS_MAX = 8
"""Calls that one exchange may make, at the most: a policy that asks for more is stopped with an error."""


class Features(msgspec.Struct, frozen=True):
    """What a policy may know of a request. Only what the policy in force needs is filled in (`Snapshot.needs`)."""

    exchange_id: str
    endpoint: Endpoint
    model: str
    """The name the client asked for."""
    stream: bool = False
    choices: int = 1
    """`n`: how many choices were asked for."""
    key: str | None = None
    """Name of the API key, None for an anonymous request."""
    labels: Mapping[str, str] = {}
    """Labels of the API key."""
    headers: Mapping[str, str] = {}
    """Request headers that the policy names, lower case."""
    user: str | None = None
    """The body's `user` field."""
    prompt_chars: int = 0
    """Characters of text in the prompt."""


class Hold(msgspec.Struct, frozen=True):
    """How much of a reply must have arrived before the policy is resumed.

    `Hold()` resumes at the first content event; `tokens` with `for_ms` at so many tokens, or so long after the first,
    whichever comes first; `all` at the end of the reply.
    """

    tokens: int = 0
    for_ms: int = 0
    all: bool = False


HOLD_NONE = Hold()
HOLD_ALL = Hold(all=True)

ErrorKind: TypeAlias = Literal[
    "connect",  # no connection: refused, unresolved, TLS
    "timeout_connect",
    "timeout_first_token",
    "timeout_between_tokens",
    "timeout_total",
    "deadline",  # the exchange's own deadline
    "closed",  # the peer closed before the first byte of an answer
    "truncated",  # the peer closed, or stopped being HTTP or SSE, in the middle of an answer
    "protocol",  # what it sent was not HTTP, or not JSON or SSE where it had to be
    "too_large",
    "status",  # an HTTP error status
    "error_event",  # an error object within a stream
    "unready",  # no replica of it is ready
    "breaker_open",
    "queue_full",
    "queue_timeout",
    "cancelled",
]


class CallError(msgspec.Struct, frozen=True):
    """Why a call failed: a value that the policy judges, not an exception."""

    kind: ErrorKind
    message: str
    status: int | None = None
    """HTTP status, where the backend gave one."""
    retry_after_s: float | None = None
    request_at_fault: bool = False
    """The backend understood and refused the request itself (400, 413, 422 ...): another one would do the same."""
    param: str | None = None
    """The field of the request that the backend named in its error."""
    code: str | None = None
    """The error code that the backend gave (`context_length_exceeded`): applications branch on it."""


class Outcome(msgspec.Struct, frozen=True):
    """What came of a call when its hold was reached, or when it failed."""

    call: int
    """Which call of the exchange, from 0."""
    backend: str
    error: CallError | None = None
    complete: bool = False
    """The reply had ended when it was judged."""


class Call(msgspec.Struct, frozen=True):
    """Ask a backend; is sent back an `Outcome`."""

    backend: str
    hold: Hold = HOLD_NONE


class Answer(msgspec.Struct, frozen=True):
    """The client gets the reply (or the error) of this outcome."""

    outcome: Outcome
    reason: Reason = "primary"


class Refuse(msgspec.Struct, frozen=True):
    """The client gets an OpenAI-shaped error that the policy worded."""

    status: int
    kind: str
    message: str
    code: str | None = None


Verb: TypeAlias = Call
Result: TypeAlias = Outcome
Verdict: TypeAlias = Answer | Refuse
Plan: TypeAlias = Generator[Verb, Result, Verdict]


class Rule(Protocol):
    """Anything that decides a request: a single backend, a failover, later a cascade or a guard around one."""

    def decide(self, features: Features) -> Plan: ...

    def backends(self) -> tuple[str, ...]:
        """Every backend that the plan may call, in the order of preference."""
        ...


def call(backend: str, hold: Hold = HOLD_NONE) -> Generator[Call, Outcome, Outcome]:
    """The typed way to yield `Call`: `outcome = yield from call("small")`."""
    outcome = yield Call(backend, hold)
    return outcome


def advance(plan: Plan, result: Result | None) -> Verb | Verdict:
    """Send the plan what came of its last verb (None: start it); the next verb, or the verdict it ends with. Whatever the plan raises
    is raised."""
    try:
        return plan.send(result)  # type: ignore[arg-type]  # None starts a generator
    except StopIteration as stop:
        verdict: Verdict = stop.value
        return verdict
