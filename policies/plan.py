"""The vocabulary between a policy and the gateway: what a policy may ask for, what it is told, and what it answers.

A policy is a generator: it yields verbs, is sent what came of each, and returns a verdict. It does no I/O, reads no clock
and draws no random number, so that a test, `headgate explain`, a replay and the live gateway drive the same code.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Literal, Protocol, TypeAlias, final

import msgspec

from policies.scores import Scores, Status

Endpoint: TypeAlias = Literal["chat", "completions", "embeddings", "responses", "messages"]

Reason: TypeAlias = Literal["primary", "ood", "low_confidence", "failover", "hedge", "manual"]
"""Why the backend that served was the one: `x-headgate-reason`."""

CALLS_MAX = 8
"""Calls that one exchange may make, at the most: a policy that asks for more is stopped with an error. A race counts all of its."""

ScoreStatus: TypeAlias = Status
"""What a score rests on: `policies.scores`."""

TokenKind: TypeAlias = Literal["content", "tool_arguments", "all"]
"""Which tokens of a reply are scored; `content` leaves reasoning and tool calls out."""

Ood: TypeAlias = Literal["true", "false", "unscored"]
"""`x-headgate-ood`: is the request out of distribution; `unscored` where nothing could be scored."""

Agreement: TypeAlias = Literal["exact", "label", "json_fields", "judge"]
"""How an audit tells whether two answers agree."""

Percentile: TypeAlias = Literal["p50", "p90", "p95", "p99"]


class RouteState(msgspec.Struct, frozen=True):
    """What the worker knows of a route at this moment, and a rule may go by."""

    defer_limited: bool = False
    """More than `defer_limit` allows was deferred of late."""
    tightened: int = 0
    """How often an audit has tightened the calibrated thresholds: each time half as much is accepted."""
    disabled: bool = False
    """An audit has switched the cascade off: everything goes to the last stage."""


class Assessment(msgspec.Struct, frozen=True):
    """What a detector says of a request."""

    status: ScoreStatus
    score: float | None = None
    """Rises with OOD. None where unavailable, as below."""
    energy: float | None = None
    in_distribution: bool | None = None
    unanswered: bool = False
    """There is a text, but the detector did not say in time: asked again, it may."""


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
    routes: Mapping[str, RouteState] = {}
    """The state of those routes that have one (`Snapshot.stateful`), by name."""
    assessment: Assessment | None = None
    """Filled in by a guard for the rule that it wraps."""


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
    """Which call of the exchange, from 0; each call of a race has a number of its own, in the order in which they were sent."""
    backend: str
    error: CallError | None = None
    complete: bool = False
    """The reply had ended when it was judged."""
    scores: Scores | None = None
    """None only where the call asked for no evidence."""
    place: int = 0
    """Which of a race's calls this came of; 0 where there was no race."""
    sent: int = 1
    """How many of a race's calls had been sent when it was decided; 1 where there was no race."""


class Evidence(msgspec.Struct, frozen=True):
    """What of a reply's evidence the policy wants scored."""

    tokens: TokenKind = "content"
    top: int = 0
    """How many of the likeliest tokens each position needs; 0: the chosen token alone."""
    logits: bool = False
    """The backend's evidence is raw logits."""


@final
class Call(msgspec.Struct, frozen=True):
    """Ask a backend; is sent back an `Outcome`."""

    backend: str
    hold: Hold = HOLD_NONE
    evidence: Evidence | None = None
    keep: tuple[int, ...] = ()
    """Earlier calls that go on meanwhile, since they may still be answered or audited. Every other call that is under way is
    cancelled as this one is sent."""


@final
class Race(msgspec.Struct, frozen=True):
    """Send the first call, and the next one where it has not come to an outcome after so long; is sent back the first `Outcome`
    without an error, and the losers are cancelled. Where a call fails the race goes on with those that were sent already, and
    sends no other; it comes to the last failure where all of those fail. `keep` of the first call holds for the race."""

    calls: tuple[Call, ...]
    after: float | Percentile
    """Seconds, or a percentile of the first call's usual time to its hold; counted from when that call was sent."""
    budget_percent: float
    """The later calls may be so many percent of the first ones, of late; where they are more, the race is the first call alone."""
    other_replica: bool = False
    """A later call goes to a replica that no earlier one is at; where there is none, it is not sent."""


@final
class Assess(msgspec.Struct, frozen=True):
    """Is the request like those that a detector was fitted on; is sent back an `Assessment`. The gateway reads the guard text
    off the request (`policies.ood.text`) and asks the detector by this name (`Snapshot.detectors`)."""

    detector: str
    segment: str | None = None
    """The request's segment, whose threshold holds where the detector has one of its own for it."""


class Judgement(msgspec.Struct, frozen=True):
    """Why the outcome of a stage was accepted or deferred: for the record and for `headgate explain`."""

    call: int | None
    """None: the stage was not asked, since nothing that it could say would be served."""
    deferred: bool
    by: str
    """The score that decided (`mean_logprob`, `quantile_logprob(0.1)`, `calibrated`), or what did in its place: `when_unscored`,
    `defer_limit`, `error`, `no_rule`, `calibration_disabled`, `audit` (which disabled the cascade)."""
    value: float | None = None
    """The score; None where it is unavailable."""
    bound: float | None = None
    """What the score was held against."""
    status: ScoreStatus = "unavailable"
    backend: str = ""


class Mirror(msgspec.Struct, frozen=True):
    """A copy that is made off the client's path, once it has its answer. It never changes an answer.

    `audit_accepted`: the same request to `backend`, or to the first of `others` that answers where it fails; the reply is compared with
    that of call `call`, which was accepted.
    `audit_deferred`: call `call`, to `backend`, was deferred and is let finish; its reply is compared with the answer.
    """

    purpose: Literal["audit_accepted", "audit_deferred"]
    backend: str
    call: int
    agree: Agreement
    others: tuple[str, ...] = ()


@final
class Answer(msgspec.Struct, frozen=True):
    """The client gets the reply (or the error) of this outcome."""

    outcome: Outcome
    reason: Reason = "primary"
    ood: Ood | None = None
    """None where no guard stands."""
    low_confidence: bool = False
    """It was judged not good enough and is served all the same, since nothing better could be had."""
    judgements: tuple[Judgement, ...] = ()
    mirrors: tuple[Mirror, ...] = ()
    assessment: Assessment | None = None


@final
class Refuse(msgspec.Struct, frozen=True):
    """The client gets an OpenAI-shaped error that the policy worded."""

    status: int
    kind: str
    message: str
    code: str | None = None
    ood: Ood | None = None
    judgements: tuple[Judgement, ...] = ()
    assessment: Assessment | None = None


Verb: TypeAlias = Call | Race | Assess
Result: TypeAlias = Outcome | Assessment
"""An `Assessment` for `Assess`, an `Outcome` for the others."""
Verdict: TypeAlias = Answer | Refuse
Plan: TypeAlias = Generator[Verb, Result, Verdict]


class Rule(Protocol):
    """Anything that decides a request: a single backend, a failover, a cascade, a guard around one of them."""

    def decide(self, features: Features) -> Plan: ...

    def backends(self) -> tuple[str, ...]:
        """Every backend that the plan may call, in the order of preference."""
        ...


def call(backend: str, hold: Hold = HOLD_NONE) -> Generator[Call | Race, Result, Outcome]:
    """The typed way to yield `Call`: `outcome = yield from call("small")`."""
    return (yield from ask(Call(backend, hold)))


def ask(verb: Call | Race) -> Generator[Call | Race, Result, Outcome]:
    """The typed way to yield a `Call` or a `Race` that was made before."""
    outcome = yield verb
    assert isinstance(outcome, Outcome)
    return outcome


def advance(plan: Plan, result: Result | None) -> Verb | Verdict:
    """Send the plan what came of its last verb (None: start it); the next verb, or the verdict it ends with. Whatever the plan raises
    is raised."""
    try:
        return plan.send(result)  # type: ignore[arg-type]  # None starts a generator
    except StopIteration as stop:
        verdict: Verdict = stop.value
        return verdict


def assess(verb: Assess) -> Generator[Assess, Result, Assessment]:
    """The typed way to yield `Assess`."""
    assessment = yield verb
    assert isinstance(assessment, Assessment)
    return assessment
