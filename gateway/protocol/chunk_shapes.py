"""What is read of a chunk of `/v1/chat/completions` and `/v1/completions`, and how: the fields that matter, and no others."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.protocol.usage import WireUsage


class Choice(msgspec.Struct):
    """Whether a choice has ended."""

    index: int | None = 0
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    """What is read of every chunk."""

    choices: list[Choice] | None = None
    usage: WireUsage | None = None
    error: Any = None
    object: str | None = None
    model: str | None = None


class CountedLogprobs(msgspec.Struct):
    """The entries alone are counted: chat has `content` and `refusal`, completions have `tokens` (llama-server: `content`)."""

    content: list[msgspec.Raw] | None = None
    refusal: list[msgspec.Raw] | None = None
    tokens: list[msgspec.Raw] | None = None


class TextChoice(Choice):
    """A choice and its text, under whatever name."""

    delta: dict[str, Any] | None = None
    text: str | None = None

    def has_content(self) -> bool:
        """Some text, reasoning, refusal or tool call; a role is none."""
        return bool(self.text) or (self.delta is not None and any(value for name, value in self.delta.items() if name != "role"))


class CountedChoice(TextChoice):
    """A choice whose tokens are counted."""

    logprobs: CountedLogprobs | None = None

    def tokens(self) -> int:
        """The log-probability entries, else 1 where there is content."""
        if (found := self.logprobs) is not None:
            entries = len(found.content or ()) + len(found.refusal or ()) + len(found.tokens or ())
            if entries:
                return entries
        return int(self.has_content())


class Top(msgspec.Struct, gc=False):
    """One of the likeliest tokens at a position."""

    logprob: Any = None


class Entry(msgspec.Struct):
    """The evidence of one token, in the shape of chat."""

    logprob: Any = None
    top_logprobs: list[Top] | None = None


class Logprobs(msgspec.Struct):
    """The evidence of a choice. Chat has `content` and `refusal` (and so has llama-server for completions); completions have two
    columns."""

    content: list[Entry] | None = None
    refusal: list[Entry] | None = None
    token_logprobs: list[Any] | None = None
    top_logprobs: list[dict[str, Any] | None] | None = None


class ScoredChoice(TextChoice):
    """A choice whose evidence is read."""

    logprobs: Logprobs | None = None


class ListedEntry(msgspec.Struct):
    """The likeliest tokens at a position, as they are written."""

    top_logprobs: list[msgspec.Raw] = []


class ListedLogprobs(msgspec.Struct):
    """The evidence of a choice, in the shape of chat, to be cut."""

    content: list[ListedEntry] = []


class OddChoice(TextChoice):
    """A choice whose log-probabilities are in no shape that is known."""

    logprobs: Any = None


class TextChunk(Chunk):
    """A chunk with its text."""

    choices: list[TextChoice] | None = None  # type: ignore[assignment]  # a chunk is read, never written to


class CountedChunk(Chunk):
    """A chunk whose tokens are counted."""

    choices: list[CountedChoice] | None = None  # type: ignore[assignment]


class ScoredChunk(Chunk):
    """A chunk whose evidence is read."""

    choices: list[ScoredChoice] | None = None  # type: ignore[assignment]


class OddChunk(Chunk):
    """A chunk whose log-probabilities are in no shape that is known."""

    choices: list[OddChoice] | None = None  # type: ignore[assignment]


CHUNK: Final = msgspec.json.Decoder(Chunk)
TEXT_CHUNK: Final = msgspec.json.Decoder(TextChunk)
COUNTED_CHUNK: Final = msgspec.json.Decoder(CountedChunk)
SCORED_CHUNK: Final = msgspec.json.Decoder(ScoredChunk)
ODD_CHUNK: Final = msgspec.json.Decoder(OddChunk)
LOGPROBS: Final = msgspec.json.Decoder(Logprobs)
LISTED_LOGPROBS: Final = msgspec.json.Decoder(ListedLogprobs)
OBJECT: Final = msgspec.json.Decoder(dict[str, Any])
