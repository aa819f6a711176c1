"""What each kind of backend is: which extra body fields would let one client harm others or reach into the server, which it would
silently ignore, and which error statuses only mean that it is busy. (Every kind has every endpoint; one that a server of its kind
lacks after all it answers with 404 or 501 itself.)

`request.deny` adds fields to a kind's list; `request.allow` takes fields off it, and off what is refused as ignored.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final, Protocol

import msgspec

from policies.plan import CallError
from policies.schema import Backend, Kind

_SHARED_SERVER: Final = frozenset(
    {
        "priority",  # jumps the queue before everybody else's requests
        "request_id",  # names a request: two of one name get at each other's
        "cache_salt",  # joins the prefix cache of another tenant, whose prompts can then be probed by timing
        "kv_transfer_params",  # makes the server fetch cached state from an address that the client names
        "ec_transfer_params",  # the same, for encoder outputs
    }
)
_SERVER_INSIDE: Final = frozenset(
    {
        "chat_template",  # a program of the client's that the server runs
        "chat_template_kwargs",  # arguments to the server's own such program; can also override its rendering
        "mm_processor_kwargs",  # arguments to image and audio decoding: size limits are among them
        "media_io_kwargs",  # the same, for fetching and opening media
        "prompt_embeds",  # a serialised tensor that the server deserialises
        "logits_processors",  # names of Python code to import
        "vllm_xargs",  # arguments to whatever plug-ins the server has
        "prompt_logprobs",  # memory in proportion to prompt times vocabulary
        # A grammar compiled inside the engine, where a bad one has stalled or ended it for all. `response_format` and `tools`
        # are the checked way to the same end.
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "guided_decoding_backend",
        "guided_whitespace_pattern",
        "structured_outputs",
    }
)
_OTHER_SERVERS: Final = frozenset(
    {
        # "openai" may be any server: what other engines' fields of that sort are called.
        "rid",
        "session_params",
        "bootstrap_host",
        "bootstrap_port",
        "bootstrap_room",
        "custom_logit_processor",
        "custom_params",
        "lora_path",
        "return_hidden_states",
        "id_slot",
        "lora",
        "grammar",
    }
)
_OLLAMA_MODEL: Final = frozenset(
    {
        "keep_alive",  # 0 unloads the model under everybody else
        "options",  # another context size loads the model again
        "template",  # a program of the client's that the server runs
    }
)


class KindFacts(msgspec.Struct, frozen=True):
    """One kind of backend."""

    denied: frozenset[str]
    """Extra body fields that are not passed on."""
    ignores: frozenset[str] = frozenset()
    """Fields that it takes, does nothing with, and whose absence the client would notice: refused with their name."""
    busy_statuses: frozenset[int] = frozenset({429})
    """Error statuses that say nothing of its health."""


KINDS: Final[dict[Kind, KindFacts]] = {
    "vllm": KindFacts(_SHARED_SERVER | _SERVER_INSIDE),
    # Its 503 is "the queue is full", without retry-after.
    "ollama": KindFacts(
        _OLLAMA_MODEL,
        ignores=frozenset({"n", "tool_choice", "logit_bias", "max_completion_tokens"}),
        busy_statuses=frozenset({429, 503}),
    ),
    "openai": KindFacts(_SHARED_SERVER | _SERVER_INSIDE | _OTHER_SERVERS),
    "embedded": KindFacts(frozenset()),
}

_HARMLESS: Final = {
    "n": frozenset({b"null", b"1"}),
    "tool_choice": frozenset({b"null", b'"auto"'}),
    "logit_bias": frozenset({b"null", b"{}"}),
    "max_completion_tokens": frozenset({b"null"}),
}
"""Values that ask for what an ignoring backend does anyway."""


class BodyFacts(Protocol):
    """What is asked of a request body (`gateway.protocol.body.Body`)."""

    @property
    def names(self) -> Set[str]:
        """The top-level fields."""
        ...

    @property
    def asks_logprobs(self) -> bool:
        """The answer is to have log-probabilities of its tokens."""
        ...

    def value(self, name: str) -> bytes:
        """The JSON of a top-level field that is there."""
        ...


def denied(backend: Backend, names: Set[str]) -> str | None:
    """The first of these body fields (by name) that this backend must not be sent."""
    request = backend.request
    by_kind = KINDS[backend.kind].denied
    if by_kind.isdisjoint(names) and not request.deny:
        return None
    found = {name for name in names if name in request.deny or (name in by_kind and name not in request.allow)}
    return min(found, default=None)


def refused(backend: Backend, body: BodyFacts) -> str | None:
    """Why this kind of backend cannot do what a request asks, where it would not say so itself."""
    ignores = KINDS[backend.kind].ignores
    if ignores.isdisjoint(body.names):
        return None
    for name in sorted(ignores.intersection(body.names)):
        if name == "max_completion_tokens" and "max_tokens" in body.names:
            continue
        if name not in backend.request.allow and body.value(name) not in _HARMLESS[name]:
            instead = ": send max_tokens" if name == "max_completion_tokens" else ""
            return f"backend {backend.name} ({backend.kind}) would ignore '{name}' without a word{instead}"
    return None


def watched(backend: Backend) -> frozenset[str]:
    """The body fields without which there is never an `objection`: most requests have none of them."""
    facts = KINDS[backend.kind]
    logprobs = ("logprobs", "top_logprobs", "include") if backend.evidence == "logits" and backend.client_logprobs == "refuse" else ()
    return facts.denied | facts.ignores | frozenset(backend.request.deny) | frozenset(logprobs)


def objection(backend: Backend, body: BodyFacts) -> CallError | None:
    """Why a backend must not be sent a request: a call that fails before it is made."""
    message = refused(backend, body)
    if backend.evidence == "logits" and backend.client_logprobs == "refuse" and body.asks_logprobs:
        message = f"backend {backend.name} has logits in the place of log-probabilities: they cannot be asked for"
    if (name := denied(backend, body.names)) is not None:
        message = f"the field {name!r} is not allowed for backend {backend.name}"
    return None if message is None else CallError("status", message, 400, request_at_fault=True)


def replica_urls(backend: Backend, embedded_port: int) -> tuple[str, ...]:
    """Where its replicas are. An embedded backend has one, on the loopback; logits are served under a base path of their own."""
    if backend.kind != "embedded":
        return backend.replicas
    return (f"http://127.0.0.1:{embedded_port}{'/logits' if backend.evidence == 'logits' else ''}",)
