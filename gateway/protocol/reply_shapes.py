"""What is read of a whole reply, and of the evidence in one of `/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.protocol.chunk_shapes import Entry
from gateway.protocol.usage import Usage, WireUsage


class ReplyFacts(msgspec.Struct, frozen=True, gc=False):
    """What a whole reply says beside its content."""

    usage: Usage | None = None
    finish_reasons: tuple[str, ...] = ()
    """Why each choice ended; for responses and messages the reply's own reason."""
    model: str = ""
    """The model as the backend names it."""
    problem: str | None = None
    """Why this is no reply, though its status was 200: it is not what the endpoint answers, or is an error."""


class ReplyChoice(msgspec.Struct, gc=False):
    """Why a choice ended."""

    finish_reason: str | None = None


class IncompleteDetails(msgspec.Struct, gc=False):
    """Why a response was cut short."""

    reason: str | None = None


class Reply(msgspec.Struct, gc=False):
    """Any endpoint's reply. Chat and completions have `choices`, embeddings `data`, responses `output`, messages `content`."""

    choices: list[ReplyChoice] | None = None
    data: list[msgspec.Raw] | None = None
    output: list[msgspec.Raw] | None = None
    content: list[msgspec.Raw] | None = None
    usage: WireUsage | None = None
    model: str | None = None
    error: Any = None
    object: str | None = None
    type: str | None = None
    message: Any = None
    status: str | None = None
    incomplete_details: IncompleteDetails | None = None
    stop_reason: str | None = None


class WrittenEntry(Entry):
    """The evidence of one token, and what it says: its text, and its bytes where one token is only part of a character."""

    token: Any = None
    bytes: msgspec.Raw = msgspec.Raw()


class WholeLogprobs(msgspec.Struct):
    """The evidence of a whole choice; `gateway.protocol.chunk_shapes.Logprobs` with the tokens' texts."""

    content: list[WrittenEntry] | None = None
    refusal: list[WrittenEntry] | None = None
    token_logprobs: list[Any] | None = None
    top_logprobs: list[dict[str, Any] | None] | None = None


class WholeChoice(msgspec.Struct):
    """A choice of a whole reply. The message is read by `gateway.protocol.evidence`: its fields may be of any type."""

    finish_reason: Any = None
    message: dict[str, Any] | None = None
    logprobs: WholeLogprobs | None = None


class WholeReply(msgspec.Struct):
    """A whole reply."""

    choices: list[WholeChoice] | None = None


REPLY: Final = msgspec.json.Decoder(Reply)
WHOLE_REPLY: Final = msgspec.json.Decoder(WholeReply)
TOKEN_BYTES: Final = msgspec.json.Decoder(list[int])
