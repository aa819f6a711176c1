"""The policy file as typed values. The checker, the JSON Schema and the reference page are made from these classes alone.

What a class cannot say (a dangling name, two limits that contradict each other) is checked in `policies.check`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

import msgspec
from msgspec import Meta

from policies.plan import CALLS_MAX
from policies.scalars import Duration, HeaderName, Name, Percent, Secret, Size, Text
from policies.schema_rules import Cascade, Detector, Guard, Hedge

Kind: TypeAlias = Literal["vllm", "ollama", "openai", "embedded"]

REFERENCES_MAX = 1_000
"""Backends, routes, keys, segments and the like: entries of one list at the most."""


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of the data plane, for every route."""

    body_max: Annotated[
        Size, Meta(ge=1024, le=1024**3, description="The largest request body; a larger one is answered 413.", examples=["32MiB"])
    ] = 32 * 1024 * 1024
    deadline: Annotated[
        Duration,
        Meta(gt=0, description="How long one exchange may take, all its calls together; then it is answered 504.", examples=["10m"]),
    ] = 600.0
    drain: Annotated[
        Duration, Meta(ge=0, description="On SIGTERM, how long exchanges under way may go on before they are cut.", examples=["30s"])
    ] = 30.0
    anonymous: Annotated[
        bool,
        Meta(
            description="Serve requests without an API key. Without `keys` and without this, the gateway listens on loopback only.",
            examples=[False],
        ),
    ] = False


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long one call to a backend may take. A call that runs over fails, and `failover` may ask the next backend."""

    connect: Annotated[Duration, Meta(gt=0, description="Until the connection stands, TLS included.", examples=["2s"])] = 2.0
    first_token: Annotated[
        Duration, Meta(gt=0, description="On a stream, from asking a replica to the first content of its reply.", examples=["20s"])
    ] = 60.0
    between_tokens: Annotated[
        Duration, Meta(gt=0, description="On a stream, the longest silence after its first content.", examples=["10s"])
    ] = 30.0
    total: Annotated[
        Duration,
        Meta(
            gt=0,
            description="The whole call, its retries too, to the end of the reply; for what is not streamed the only limit.",
            examples=["5m"],
        ),
    ] = 300.0


class Retries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Trying the same backend again, on another replica where there is one; never once a request was sent and not refused."""

    attempts: Annotated[int, Meta(ge=1, le=10, description="Tries in all, the first one included.", examples=[2])] = 2
    retry_on: Annotated[
        tuple[Literal["connect", "429", "503"], ...],
        Meta(description="The failures that are tried again: no connection, or a refusal with this status.", examples=[["connect", "503"]]),
    ] = ("connect", "429", "503")
    backoff: Annotated[
        Duration,
        Meta(
            ge=0,
            le=5,
            description="The longest wait before the second try; it doubles with each further one, up to 5s. Drawn at random.",
            examples=["100ms"],
        ),
    ] = 0.1
    budget_percent: Annotated[
        Percent,
        Meta(description="Retries at most, as a share of the backend's recent calls: a retry storm ends itself.", examples=[10]),
    ] = 10.0


class Breaker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Leaves a failing replica alone for a while."""

    failures: Annotated[int, Meta(ge=1, le=1000, description="Failures in a row that open it.", examples=[5])] = 5
    open_for: Annotated[Duration, Meta(gt=0, description="How long it stays open before one call may try again.", examples=["10s"])] = 10.0


class Concurrency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Calls to the backend at once. The limits are of this machine, shared by its workers."""

    limit: Annotated[int, Meta(ge=1, le=100_000, description="Calls under way at once.", examples=[256])] = 256
    queue: Annotated[
        int, Meta(ge=0, le=100_000, description="Calls that may wait for one of them to end; the next one fails at once.", examples=[512])
    ] = 512
    queue_for: Annotated[Duration, Meta(gt=0, description="How long a call may wait.", examples=["5s"])] = 5.0


class Readiness(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A replica is ready when it answered a prompt. Probed once a machine."""

    prompt: Annotated[str, Meta(min_length=1, max_length=4096, description="What it is asked.", examples=["ping"])] = "ping"
    every: Annotated[Duration, Meta(ge=0.1, description="How often each replica is asked.", examples=["15s"])] = 15.0
    max_tokens: Annotated[int, Meta(ge=1, le=1024, description="How long an answer is asked for.", examples=[1])] = 1


class WarmUp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prompts that a replica answers before it gets traffic, so that no client pays for cold caches."""

    prompts: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=65_536)], ...],
        Meta(max_length=100, description="Asked one after the other, once the replica is ready.", examples=[["ping"]]),
    ] = ()
    for_: Annotated[
        Duration, Meta(gt=0, description="How long warming up may take; then the replica gets traffic as it is.", examples=["2m"])
    ] = msgspec.field(default=120.0, name="for")


class RequestFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which fields of a request's body may go to the backend. Each kind has a default deny list."""

    deny: Annotated[
        tuple[Text, ...],
        Meta(max_length=100, description="Top-level body fields that are refused, beside the kind's own list.", examples=[["priority"]]),
    ] = ()
    allow: Annotated[
        tuple[Text, ...],
        Meta(max_length=100, description="Fields let through although the kind's own list denies them.", examples=[["guided_json"]]),
    ] = ()


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the backend costs, for the cost in records and metrics."""

    input: Annotated[float, Meta(ge=0, description="Price of `per_tokens` prompt tokens.", examples=[0.10])] = 0.0
    output: Annotated[float, Meta(ge=0, description="Price of `per_tokens` answered tokens.", examples=[0.40])] = 0.0
    currency: Annotated[
        str,
        Meta(
            pattern="^[A-Z]{3}$",
            extra={"called": "currency", "words": "three capital letters"},
            description="ISO 4217 code.",
            examples=["USD"],
        ),
    ] = "USD"
    per_tokens: Annotated[int, Meta(ge=1, description="How many tokens the prices are for.", examples=[1_000_000])] = 1_000_000


class Backend(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model endpoint: one model on one or more replicas that are interchangeable."""

    LATER: ClassVar[tuple[str, ...]] = ("lifecycle", "lineage")

    name: Annotated[Name, Meta(description="What routes, metrics and headers call it.", examples=["support-ft-v3"])]
    kind: Annotated[
        Kind, Meta(description="Which engine it is: decides what it can be asked and how its faults are read.", examples=["vllm"])
    ]
    model: Annotated[
        Text,
        Meta(
            description="The name the backend knows the model by; a LoRA adapter's name works too. `embedded` has `specialist`, "
            "`specialist-queues` and `generalist`.",
            examples=["support-ft-v3"],
        ),
    ]
    replicas: Annotated[
        tuple[str, ...],
        Meta(
            max_length=REFERENCES_MAX,
            description="Base URLs, `http` or `https`, a path where the server has one, without the `/v1`. Required, except for "
            "`kind: embedded`, which has none.",
            examples=[["http://vllm-a:8000", "http://vllm-b:8000"]],
        ),
    ] = ()
    balance: Annotated[
        Literal["least_outstanding", "prefix_hash", "round_robin"],
        Meta(
            description="Which replica gets a call: the least busy, the one that saw the same beginning of a prompt (its cache is warm), "
            "or each in turn.",
            examples=["least_outstanding"],
        ),
    ] = "least_outstanding"
    api_key: Annotated[
        Secret | None, Meta(description="Sent to the replicas as `authorization: Bearer`.", examples=["${env:VLLM_KEY}"])
    ] = None
    evidence: Annotated[
        Literal["none", "logprobs", "logits"],
        Meta(
            description="What its answers can carry for judging them. `logits` is a vLLM started with `--logprobs-mode raw_logits`. "
            "Checked by the probe.",
            examples=["logprobs"],
        ),
    ] = "none"
    client_logprobs: Annotated[
        Literal["refuse", "pass"],
        Meta(
            description="With `evidence: logits`, what a client gets that asks for log-probabilities itself: a 400, or the logits that "
            "stand in their place.",
            examples=["pass"],
        ),
    ] = "refuse"
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    breaker: Breaker = Breaker()
    concurrency: Concurrency = Concurrency()
    readiness: Readiness = Readiness()
    warm_up: WarmUp = WarmUp()
    request: RequestFields = RequestFields()
    price: Price | None = None


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bounded label of requests, used in every break-down."""

    name: Annotated[Name, Meta(description="What routes and break-downs call it.", examples=["tenant"])]
    from_: Annotated[
        str,
        Meta(
            description="Where it is read: `key:LABEL` (a label of the API key), `header:NAME`, or `prompt_chars`.", examples=["key:tenant"]
        ),
    ] = msgspec.field(name="from")
    values: Annotated[
        tuple[Text, ...],
        Meta(max_length=100, description="The values kept as they are; for `key:` and `header:`.", examples=[["acme", "globex"]]),
    ] = ()
    else_: Annotated[Text, Meta(description="The value of everything else, and of what has none.", examples=["other"])] = msgspec.field(
        default="other", name="else"
    )
    edges: Annotated[
        tuple[Annotated[int, Meta(ge=1)], ...],
        Meta(
            max_length=20,
            description="Cuts `prompt_chars`: `[200, 1000]` makes `<200`, `200-999` and `>=1000`. Ascending.",
            examples=[[200, 1000, 5000]],
        ),
    ] = ()


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether records keep what was asked and answered."""

    store: Annotated[bool, Meta(description="Keep the text of requests and answers.", examples=[True])] = False
    sample_percent: Annotated[Percent, Meta(description="Of how many exchanges; a hash of the exchange id decides.", examples=[100])] = (
        100.0
    )
    redact: Annotated[
        tuple[str, ...],
        Meta(
            max_length=100,
            description="What is blacked out before anything is stored or shown, in texts and in messages of errors: `email`, "
            "`phone`, `card`, `iban`, or `regex:` and a Python regular expression. A `unit` in which one is found is stored as its hash.",
            examples=[["email", "regex:ACME-[0-9]+"]],
        ),
    ] = ()


class Records(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One record an exchange, and how long they are kept. Whichever limit is reached first drops the oldest."""

    keep_for: Annotated[Duration, Meta(gt=0, description="The age at which a record is dropped.", examples=["30d"])] = 30 * 86400.0
    keep_max: Annotated[Size, Meta(ge=1024**2, description="The size of the store beyond which the oldest go.", examples=["5GiB"])] = (
        5 * 1024**3
    )
    content: Content = Content()


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which requests a route takes: those that meet every condition written here."""

    models: Annotated[
        tuple[Text, ...],
        Meta(max_length=REFERENCES_MAX, description="The model the client asked for is one of these, exactly.", examples=[["support"]]),
    ] = ()
    keys: Annotated[
        dict[Name, tuple[Text, ...]],
        Meta(
            max_length=16,
            description="The API key has each of these labels, with one of these values.",
            examples=[{"tenant": ["acme", "globex"]}],
        ),
    ] = {}
    headers: Annotated[
        dict[HeaderName, tuple[Text, ...]],
        Meta(
            max_length=16,
            description="The request has each of these headers, with one of these values. Only where a trusted proxy sets them.",
            examples=[{"x-tier": ["gold"]}],
        ),
    ] = {}


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who answers which requests. Exactly one of `backend`, `failover` and `cascade`."""

    LATER: ClassVar[tuple[str, ...]] = ("experiments", "shadow", "monitors", "triggers")

    name: Annotated[Name, Meta(description="What keys, metrics and headers call it.", examples=["support"])]
    matches: Annotated[
        tuple[Match, ...],
        Meta(
            min_length=1,
            max_length=100,
            description="A request takes the first route, in file order, one of whose matches fits and which its key may use.",
            examples=[[{"models": ["support"]}]],
        ),
    ]
    backend: Annotated[Name | None, Meta(description="The backend that answers.", examples=["support-ft-v3"])] = None
    failover: Annotated[
        tuple[Name, ...],
        Meta(
            max_length=CALLS_MAX,
            description="Backends in order: the next one is asked when a call fails before anything reached the client, unless the "
            "request itself is at fault.",
            examples=[["small", "big"]],
        ),
    ] = ()
    cascade: Cascade | None = None
    guard: Guard | None = None
    hedge: Hedge | None = None
    segments: Annotated[
        tuple[Name, ...], Meta(max_length=16, description="The segments that its requests are broken down by.", examples=[["tenant"]])
    ] = ()
    unit: Annotated[
        tuple[str, ...],
        Meta(
            max_length=8,
            description="Who the user is: the first that is present of `header:NAME`, `body:user`, `key`. A missing unit is counted.",
            examples=[["header:x-user-id", "body:user", "key"]],
        ),
    ] = ()
    keep_alive_after: (
        Annotated[
            Duration,
            Meta(
                gt=0,
                description="On a stream, send status 200 and SSE comments after so long without a commit. Later errors are then "
                "SSE errors, and the served model is only in the record.",
                examples=["10s"],
            ),
        ]
        | None
    ) = None


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where alerts are posted."""

    url: Annotated[
        Secret, Meta(description="An `http` or `https` URL, by reference: it often holds a token.", examples=["${env:ALERT_URL}"])
    ]


class Alerts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who hears of alerts."""

    webhooks: Annotated[tuple[Webhook, ...], Meta(max_length=16)] = ()


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An API key that clients present. `headgate key new` makes one."""

    LATER: ClassVar[tuple[str, ...]] = ("limits",)

    name: Annotated[Name, Meta(description="What records and logs call it.", examples=["acme-prod"])]
    sha256: Annotated[
        Secret, Meta(description="SHA-256 of the key, 64 hex digits: the file never holds the key.", examples=["${file:keys/acme.sha256}"])
    ]
    labels: Annotated[
        dict[Name, Text], Meta(max_length=16, description="What matches and segments may ask of it.", examples=[{"tenant": "acme"}])
    ] = {}
    routes: (
        Annotated[
            tuple[Name, ...],
            Meta(min_length=1, max_length=REFERENCES_MAX, description="The routes it may use; left out: all.", examples=[["support"]]),
        ]
        | None
    ) = None
    debug: Annotated[
        bool,
        Meta(description="It may ask for scores in response headers. Off by default, since scores help an evader.", examples=[True]),
    ] = False


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One policy: which backends there are, and which of them answers what."""

    version: Annotated[Literal[1], Meta(description="The language's version.", examples=[1])]
    backends: Annotated[tuple[Backend, ...], Meta(min_length=1, max_length=REFERENCES_MAX)]
    routes: Annotated[tuple[Route, ...], Meta(min_length=1, max_length=REFERENCES_MAX)]
    server: Server = Server()
    detectors: Annotated[tuple[Detector, ...], Meta(max_length=100)] = ()
    segments: Annotated[tuple[Segment, ...], Meta(max_length=100)] = ()
    records: Records = Records()
    alerts: Alerts = Alerts()
    keys: Annotated[tuple[Key, ...], Meta(max_length=100_000)] = ()
