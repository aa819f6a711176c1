"""What is read of the evidence in a whole reply of `/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.protocol.chunk_shapes import Entry


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


WHOLE_REPLY: Final = msgspec.json.Decoder(WholeReply)
TOKEN_BYTES: Final = msgspec.json.Decoder(list[int])
