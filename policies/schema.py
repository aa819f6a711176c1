"""The policy file as typed values. The checker, the JSON Schema and the reference page are made from these classes alone.

Scalars that YAML writes with a unit are held in base units: durations in seconds, sizes in bytes, percents 0-100.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

Duration: TypeAlias = Annotated[float, "duration"]
"""Seconds; written `400ms 5s 10m 72h 7d`."""
Size: TypeAlias = Annotated[int, "size"]
"""Bytes; written `32MiB 5GiB 64KB`."""
Percent: TypeAlias = Annotated[float, "percent"]
"""0-100."""
Secret: TypeAlias = Annotated[str, "secret"]
"""Only by reference: `${env:NAME}` or `${file:PATH}`."""

Kind: TypeAlias = Literal["vllm", "ollama", "openai", "embedded"]


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    body_max: Size = 32 * 1024 * 1024
    deadline: Duration = 600.0
    drain: Duration = 30.0
    anonymous: bool = False


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    connect: Duration = 2.0
    first_token: Duration = 60.0
    between_tokens: Duration = 30.0
    total: Duration = 300.0


class Retries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    attempts: int = 2
    """Tries in all, the first one included."""
    retry_on: tuple[Literal["connect", "429", "503"], ...] = ("connect", "429", "503")
    backoff: Duration = 0.1
    budget_percent: Percent = 10.0


class Breaker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    failures: int = 5
    open_for: Duration = 10.0


class Concurrency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    limit: int = 256
    queue: int = 512
    queue_for: Duration = 5.0


class Readiness(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prompt: str = "ping"
    every: Duration = 15.0
    max_tokens: int = 1


class WarmUp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prompts: tuple[str, ...] = ()
    for_: Duration = msgspec.field(default=120.0, name="for")


class RequestFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    deny: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    input: float = 0.0
    output: float = 0.0
    currency: str = "USD"
    per_tokens: int = 1_000_000


class Backend(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    kind: Kind
    model: str
    replicas: tuple[str, ...] = ()
    balance: Literal["least_outstanding", "prefix_hash", "round_robin"] = "least_outstanding"
    api_key: Secret | None = None
    evidence: Literal["none", "logprobs", "logits"] = "none"
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    breaker: Breaker = Breaker()
    concurrency: Concurrency = Concurrency()
    readiness: Readiness = Readiness()
    warm_up: WarmUp = WarmUp()
    request: RequestFields = RequestFields()
    price: Price | None = None


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    from_: str = msgspec.field(name="from")
    """`key:LABEL`, `header:NAME` or `prompt_chars`."""
    values: tuple[str, ...] = ()
    else_: str = msgspec.field(default="other", name="else")
    edges: tuple[float, ...] = ()


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    store: bool = False
    sample_percent: Percent = 100.0
    redact: tuple[str, ...] = ()


class Records(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keep_for: Duration = 30 * 86400.0
    keep_max: Size = 5 * 1024**3
    content: Content = Content()


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: tuple[str, ...] = ()
    keys: dict[str, tuple[str, ...]] = {}
    headers: dict[str, tuple[str, ...]] = {}


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    matches: tuple[Match, ...]
    backend: str | None = None
    failover: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    unit: tuple[str, ...] = ()
    keep_alive_after: Duration | None = None
    """Send status 200 and SSE comments after so long without a commit; late errors are then SSE errors."""


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: Secret


class Alerts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    webhooks: tuple[Webhook, ...] = ()


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    sha256: Secret
    """Hex digest of the key."""
    labels: dict[str, str] = {}
    routes: tuple[str, ...] | None = None
    """Routes the key may use; None: all."""
    debug: bool = False


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    backends: tuple[Backend, ...]
    routes: tuple[Route, ...]
    server: Server = Server()
    segments: tuple[Segment, ...] = ()
    records: Records = Records()
    alerts: Alerts = Alerts()
    keys: tuple[Key, ...] = ()
