"""What a worker and the controller say to each other: frozen, typed, versioned. Up: hello, records, totals, acknowledgements.
Down: policies to prepare, the order to swap, the overlay (which replicas are ready, how many workers share the limits).

Records have `gc=False`: trees of strings, bytes and numbers cannot be part of a cycle, so the collector need not look at them.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from gateway.telemetry.sample import Sample

LINK_VERSION = 2


class AttemptRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One try at one replica. Times are seconds since the exchange started."""

    replica: str
    started: float
    ended: float
    result: str


class ScoresRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a reply was judged by (`policies.scores.Scores`); None where the evidence could not give it."""

    status: str
    tokens: int = 0
    mean_logprob: float | None = None
    min_logprob: float | None = None
    quantiles: tuple[float | None, ...] = ()
    """Of the log-probabilities, those of `policies.scores.QUANTILES`."""
    margin: float | None = None
    first_margin: float | None = None
    entropy: float | None = None
    energy: float | None = None


class JudgementRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Why a stage of a cascade was accepted or deferred (`policies.plan.Judgement`)."""

    backend: str
    deferred: bool
    by: str
    call: int | None = None
    """Which of the calls, from 0; None: the stage was not asked."""
    value: float | None = None
    bound: float | None = None
    status: str = ""


class AssessmentRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a detector said of the request."""

    status: str
    score: float | None = None
    energy: float | None = None


class Findings(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a guard and a cascade found, of one exchange."""

    judgements: tuple[JudgementRecord, ...] = ()
    low_confidence: bool = False
    """What was served was judged not good enough, and nothing better was to be had."""
    ood: str = ""
    """"true", "false", "unscored"; "" where no guard stands."""
    assessment: AssessmentRecord | None = None


class CallRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One verb `Call` and what came of it. Times are seconds since the exchange started; None: it did not come to that."""

    backend: str
    span_id: str
    started: float
    head: float | None
    first_content: float | None
    ended: float
    result: str
    """"ok", "cancelled", or the kind of the error."""
    message: str = ""
    status: int | None = None
    held: float | None = None
    """When its hold was reached and the policy resumed."""
    attempts: tuple[AttemptRecord, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    finish_reasons: tuple[str, ...] = ()
    response_model: str | None = None
    cost: float | None = None
    currency: str | None = None
    scores: ScoresRecord | None = None
    """None where no evidence was asked for."""


class AuditRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an audit of the exchange found, off the request path (`policies.plan.Mirror`)."""

    purpose: str
    """"audit_accepted": the last stage was asked the same. "audit_deferred": a deferred reply was let finish."""
    backend: str
    """Whose reply was compared with the answer."""
    agreed: bool | None
    """None: it could not be told, and `why` says why."""
    why: str = ""
    """"" where it could be told, else "error", "busy", "timeout", "too_long", "not_comparable" or "stopped"."""
    call: CallRecord | None = None
    """What was asked for the audit alone: the call of "audit_accepted"; the last of them where it failed over."""
    before: tuple[CallRecord, ...] = ()
    """The calls for the audit that had failed before it, in order."""

    @property
    def calls(self) -> tuple[CallRecord, ...]:
        """Every call that was made for the audit alone, in order."""
        return self.before if self.call is None else (*self.before, self.call)


class Content(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was asked and served, as bytes on the wire; `truncated` where it was longer than is kept."""

    request: bytes
    response: bytes
    truncated: bool = False


class ExchangeRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One client request and everything done for it. Made once, in `finally`, whatever happened."""

    exchange_id: str
    request_id: str
    trace_id: str
    span_id: str
    parent_span_id: str
    trace_sampled: bool
    policy_version: str
    started_at: float
    """Unix time, seconds."""
    duration: float
    endpoint: str
    model: str
    stream: bool
    route: str
    """"" where none matched."""
    key: str
    """Name of the API key; "" for an anonymous request."""
    unit: str
    segments: tuple[tuple[str, str], ...]
    """(segment, value)."""
    reason: str
    backend: str
    """Who served; "" where nobody did."""
    code: int
    """HTTP status, 499 where the client left before the answer was whole."""
    error: str
    """The error's message, "" where there is none."""
    committed: float | None
    """First byte to the client, seconds since the start."""
    overhead: float
    bytes_in: int
    bytes_out: int
    calls: tuple[CallRecord, ...]
    content: Content | None = None
    truncated_by_client: bool = False
    """The client left before the answer was whole."""
    findings: Findings | None = None
    """None where neither a guard nor a cascade had its say."""
    audits: tuple[AuditRecord, ...] = ()
    """The record of an audited exchange is emitted once its audits have ended."""


# Worker -> controller


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """First on every connection. `incarnation` is new for every worker process: totals are kept by it."""

    worker: int
    pid: int
    incarnation: str
    policy_version: str
    """"" where it has none yet."""
    link_version: int = LINK_VERSION


class Records(msgspec.Struct, frozen=True, tag="records"):
    """A batch. `sequence` counts batches of one incarnation from 1; the controller acknowledges it once the batch is in its
    hands, and a worker that reconnects sends what was not acknowledged again: the store ignores an exchange id it has."""

    sequence: int
    records: list[ExchangeRecord]


class EncodedRecords(msgspec.Struct, frozen=True, tag="records"):
    """`Records`, each of them encoded already."""

    sequence: int
    records: list[msgspec.Raw]


class OutboxLimits(msgspec.Struct, frozen=True):
    """What a controller that is away, stopped or slow may cost a worker."""

    records_max: int = 100_000
    bytes_max: int = 64 * 1024 * 1024
    """Spill and unacknowledged batches together."""
    record_bytes_max: int = 4 * 1024 * 1024
    """A longer record loses its content."""
    batch_records_max: int = 512
    batch_bytes_max: int = 256 * 1024
    window_batches_max: int = 16
    """Batches sent and not acknowledged. What all workers may have sent must fit in the controller's queue (`gateway.records.consumer`): a
    controller that was stopped finds all of it at once."""


class Totals(msgspec.Struct, frozen=True, tag="totals"):
    """Cumulative counters of this incarnation: all of them first on every connection, then those that have changed since."""

    samples: list[Sample]


class Prepared(msgspec.Struct, frozen=True, tag="prepared"):
    """The policy is compiled and its upstreams stand; or `error` says why not."""

    version: str
    error: str = ""


class Swapped(msgspec.Struct, frozen=True, tag="swapped"):
    """The prepared policy is the one in force in this worker."""

    version: str


class ReplicaSeen(msgspec.Struct, frozen=True, tag="replica_seen"):
    """A worker's breaker opened or closed on a replica."""

    backend: str
    replica: str
    open: bool


# Controller -> worker


class Ack(msgspec.Struct, frozen=True, tag="ack"):
    """Every batch up to `sequence` is in the controller's hands."""

    sequence: int


class Prepare(msgspec.Struct, frozen=True, tag="prepare"):
    """Compile this policy and make its upstreams, but serve on with the one in force."""

    version: str
    policy: bytes
    """The canonical form with secrets filled in: JSON of `policies.schema.Policy`."""
    files: str
    """Folder of the files that the policy names, by their hash."""
    named: dict[str, str] = {}
    """SHA-256 of each file that compiling needs, by the path that the policy names it by."""


class Swap(msgspec.Struct, frozen=True, tag="swap"):
    """Put the prepared policy in force."""

    version: str


class Discard(msgspec.Struct, frozen=True, tag="discard"):
    """Forget a prepared version: another worker could not prepare it."""

    version: str


class ReplicaState(msgspec.Struct, frozen=True, array_like=True):
    """What the controller's probe last saw of a replica."""

    backend: str
    replica: str
    ready: bool
    evidence_ok: bool = True


class CascadeState(msgspec.Struct, frozen=True, array_like=True):
    """What audits have done to the cascade of a route (`policies.plan.RouteState`)."""

    route: str
    tightened: int
    disabled: bool


class Overlay(msgspec.Struct, frozen=True, tag="overlay"):
    """What is true beside the policy. Replaces the overlay before it whole."""

    workers: int
    """Live workers: limits of the machine are divided by it."""
    replicas: tuple[ReplicaState, ...] = ()
    alerts: tuple[str, ...] = ()
    cascades: tuple[CascadeState, ...] = ()
    """Of those routes to which audits have done something."""


Up: TypeAlias = Hello | Records | Totals | Prepared | Swapped | ReplicaSeen
Down: TypeAlias = Ack | Prepare | Swap | Discard | Overlay
