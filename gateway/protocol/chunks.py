"""Streams of `/v1/chat/completions` and `/v1/completions`: chunks with choices, a usage chunk, `[DONE]`."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.protocol.reader import StreamReader
from gateway.protocol.usage import WireUsage

CHOICES_MAX = 4096
"""Choices of one stream."""
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


class _OpeningChoice(_Choice):
    delta: dict[str, Any] | None = None
    text: str | None = None

    def has_content(self) -> bool:
        """Some text, reasoning, refusal or tool call, under whatever name; a role is none."""
        return bool(self.text) or (self.delta is not None and any(value for name, value in self.delta.items() if name != "role"))


class _OpeningChunk(msgspec.Struct):
    choices: list[_OpeningChoice] | None = None


_CHUNK = msgspec.json.Decoder(_Chunk)
_OPENING_CHUNK = msgspec.json.Decoder(_OpeningChunk)
_OBJECT = msgspec.json.Decoder(dict[str, Any])


class ChunkStream(StreamReader):
    """A chat or completions stream.

    Once content has come, a chunk of a single choice is recognised without parsing: its bytes begin and end like those of a
    chunk that was parsed, the beginning up to and into the choice, the end from there, and `"finish_reason":null` in one of
    them (`_learn`). What lies between is then inside that choice, so the chunk ends nothing, reports nothing and is no error.
    Everything else is parsed.
    """

    __slots__ = ("_choices", "_finished", "_prefix", "_strip_usage", "_suffix", "_unparsed")

    def __init__(self, choices: int, strip_usage: bool) -> None:
        super().__init__()
        self._choices = choices
        self._strip_usage = strip_usage
        self._finished: dict[int, str] = {}
        """Why each choice that was seen ended; "" while it has not."""
        self._prefix = self._suffix = b""
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
        if self.broken or self.error is not None or not self._all_finished():
            return False
        return self.done_seen or len(self._finished) >= self._choices

    def feed(self, data: bytes) -> bytes:
        if self._unparsed and 0x0D not in data:
            prefix, start = self._prefix, 0
            while data.startswith(prefix, start):
                end = data.find(b"\n", start) + 2
                if not data.endswith(self._suffix, start, end):
                    break
                if end == len(data):
                    return data
                start = end
        out = super().feed(data)
        self._unparsed = bool(self._prefix) and self._kept and not self._splitter.tail and self.error is None and not self.broken
        return out

    def _is_like_learned(self, event: bytes) -> bool:
        """One event, of one line, that needs no parsing."""
        return event.endswith(self._suffix) and event.startswith(self._prefix) and event.find(b"\n") == len(event) - 2 and 0x0D not in event

    def _all_finished(self) -> bool:
        return bool(self._finished) and all(self._finished.values())

    def _read(self, event: bytes, data: bytes) -> bool:
        if self._prefix and self._is_like_learned(event):
            return True
        if data == b"[DONE]":
            if not self._all_finished():
                self.broken = "the stream said [DONE] before every choice had its finish_reason"
                return False
            self.done_seen = True
            return True
        try:
            chunk = _CHUNK.decode(data)
            if chunk.error or chunk.object == "error":
                self.error = chunk.error or _OBJECT.decode(data)
                return False
            if not self.content_seen and chunk.choices:
                opening = _OPENING_CHUNK.decode(data).choices or ()
                self.content_seen = any(choice.finish_reason or choice.has_content() for choice in opening)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.broken = "an event of the stream is not a chunk of the API"
            return False
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
            self.broken = f"the stream has more than {CHOICES_MAX} choices"
            return False
        if self.content_seen and self._choices == len(finished) == len(chunk.choices) == 1 and not chunk.choices[0].finish_reason:
            self._learn(event)
        return True

    def _learn(self, event: bytes) -> None:
        """Take the beginning and the end of this chunk as those of a chunk that needs no parsing. What is left when the rest is
        cut out must be a chunk of one choice that has not finished: so the beginning leads into the choice, and the end out."""
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
