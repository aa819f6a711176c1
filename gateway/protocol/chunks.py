"""Streams of `/v1/chat/completions` and `/v1/completions`: chunks with choices, a usage chunk, `[DONE]`."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.protocol.reader import StreamReader
from gateway.protocol.usage import WireUsage

CHOICES_MAX = 4096
"""Choices of one stream."""
LEARNINGS_MAX = 100
"""Times that a stream is learned anew: some engines put the second into every chunk."""
DONE = b"data: [DONE]\n\n"

_NULL_FINISH = b',"finish_reason":null'
_NULL_FINISH_FIRST = b'"finish_reason":null,'
_LOGPROBS = b'"logprobs":{'


class _Choice(msgspec.Struct):
    index: int | None = 0
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: WireUsage | None = None
    error: Any = None
    object: str | None = None
    model: str | None = None


class _Logprobs(msgspec.Struct):
    """The entries alone are counted: chat has `content` and `refusal`, completions have `tokens` (llama-server: `content`)."""

    content: list[msgspec.Raw] | None = None
    refusal: list[msgspec.Raw] | None = None
    tokens: list[msgspec.Raw] | None = None


class _FullChoice(_Choice):
    delta: dict[str, Any] | None = None
    text: str | None = None
    logprobs: _Logprobs | None = None

    def tokens(self) -> int:
        if (found := self.logprobs) is not None:
            entries = len(found.content or ()) + len(found.refusal or ()) + len(found.tokens or ())
            if entries:
                return entries
        return int(self.has_content())

    def has_content(self) -> bool:
        """Some text, reasoning, refusal or tool call, under whatever name; a role is none."""
        return bool(self.text) or (self.delta is not None and any(value for name, value in self.delta.items() if name != "role"))


class _FullChunk(_Chunk):
    choices: list[_FullChoice] | None = None  # type: ignore[assignment]  # a chunk is read, never written to


_CHUNK = msgspec.json.Decoder(_Chunk)
_FULL_CHUNK = msgspec.json.Decoder(_FullChunk)
_OBJECT = msgspec.json.Decoder(dict[str, Any])


class ChunkStream(StreamReader):
    """A chat or completions stream.

    Once content has come, a chunk of a single choice is recognised without parsing: its bytes begin and end like those of a
    chunk that was parsed, the beginning up to and into the choice, the end from there, and `"finish_reason":null` in one of
    them (`_learn`). What lies between is then inside that choice, so the chunk ends nothing, reports nothing and is no error.
    Everything else is parsed.
    """

    __slots__ = ("_choices", "_finished", "_learnings", "_prefix", "_strip_usage", "_suffix", "_unparsed")

    def __init__(self, choices: int, strip_usage: bool) -> None:
        super().__init__()
        self._choices = choices
        self._strip_usage = strip_usage
        self._finished: dict[int, str] = {}
        """Why each choice that was seen ended; "" while it has not."""
        self._prefix = self._suffix = b""
        self._learnings = 0
        self._unparsed = False
        """An event may begin now, and one that is like the learned one needs no parsing."""

    @property
    def finish_reasons(self) -> tuple[str, ...]:
        """Why each choice ended, in the order of their index."""
        return tuple(reason for _, reason in sorted(self._finished.items()) if reason)

    @property
    def whole(self) -> bool:
        """Every choice has had its finish_reason. Without `[DONE]` that is every choice asked for; with it, every choice that
        the backend began (Ollama ignores `n`)."""
        if self.failed or not self._all_finished():
            return False
        return self.done_seen or len(self._finished) >= self._choices

    def feed(self, data: bytes) -> bytes:
        if self._unparsed and (
            (data.endswith(self._suffix) and data.startswith(self._prefix) and data.find(b"\n") == len(data) - 2 and 0x0D not in data)
            or self._are_like_learned(data)
        ):
            return data
        out = super().feed(data)
        self._unparsed = bool(self._prefix) and self._kept and not self._splitter.tail and not self.failed
        return out

    def _are_like_learned(self, data: bytes) -> bool:
        """Whole events, each a line that needs no parsing."""
        prefix, suffix = self._prefix, self._suffix
        start = 0
        while data.startswith(prefix, start):
            end = data.find(b"\n", start) + 2
            if not data.endswith(suffix, start, end):
                return False
            if end == len(data):
                return 0x0D not in data
            start = end
        return False

    def _all_finished(self) -> bool:
        return bool(self._finished) and all(self._finished.values())

    def _read(self, event: bytes, data: bytes) -> bool:
        if self._prefix and self._are_like_learned(event):
            return True
        if data == b"[DONE]":
            if not self._all_finished():
                return self._break("the stream said [DONE] before every choice had its finish_reason")
            self.done_seen = True
            return True
        try:
            chunk = (_CHUNK if self._committed else _FULL_CHUNK).decode(data)
            if chunk.error or chunk.object == "error":
                return self._fail(chunk.error or _OBJECT.decode(data))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._break("an event of the stream is not a chunk of the API")
        if isinstance(chunk, _FullChunk):
            for choice in chunk.choices or ():
                self.tokens += choice.tokens()
                self.content_seen = self.content_seen or bool(choice.finish_reason) or choice.has_content()
        return self._note(chunk, event)

    def _note(self, chunk: _Chunk, event: bytes) -> bool:
        if chunk.model:
            self.model = chunk.model
        if chunk.usage is not None:
            self.usage = chunk.usage.usage() or self.usage
        if not chunk.choices:
            return not (self._strip_usage and chunk.choices is not None and chunk.usage is not None)
        finished = self._finished
        for choice in chunk.choices:
            index = choice.index or 0
            if choice.finish_reason or index not in finished:
                finished[index] = choice.finish_reason or ""
        if len(finished) > CHOICES_MAX:
            return self._break(f"the stream has more than {CHOICES_MAX} choices")
        if (
            self._committed
            and self._learnings < LEARNINGS_MAX
            and self._choices == len(finished) == len(chunk.choices) == 1
            and not chunk.choices[0].finish_reason
        ):
            self._learn(event)
        return True

    def _learn(self, event: bytes) -> None:
        """Take the beginning and the end of this chunk as those of a chunk that needs no parsing. What is left when the rest is
        cut out must be a chunk of one choice that has not finished: so the beginning leads into the choice, and the end out."""
        self._learnings += 1
        start = event.find(b'"choices":[{') + 12
        finish = event.rfind(_NULL_FINISH)
        if finish >= start:
            prefix, suffix = event[:start], event[finish:]
            kernel = prefix + suffix[1:]
        else:
            inside = event.find(_NULL_FINISH_FIRST, start) + len(_NULL_FINISH_FIRST)
            prefix, suffix = event[:inside], event[event.rfind(b'}],"') :]
            kernel = prefix[:-1] + suffix
        if not (kernel.startswith(b"data: {") and kernel.endswith(b"}\n\n") and _NULL_FINISH[1:] in kernel) or _LOGPROBS in suffix:
            return
        try:
            chunk = _CHUNK.decode(kernel[6:])
        except (msgspec.DecodeError, RecursionError):
            return
        if chunk.choices is not None and len(chunk.choices) == 1:
            self._prefix, self._suffix = prefix, suffix

    def _ending(self) -> bytes:
        if not self.whole or self.done_seen:
            return b""
        self.done_seen = True
        return DONE
