"""Streams of `/v1/chat/completions` and `/v1/completions`: chunks with choices, a usage chunk, `[DONE]`."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway.protocol.reader import StreamReader
from gateway.protocol.sse import event_data
from gateway.protocol.usage import WireUsage

CHOICES_MAX = 4096
"""Choices of one stream."""
LEARNINGS_MAX = 100
"""Times that a stream is learned anew: some engines put the second into every chunk."""
DONE = b"data: [DONE]\n\n"

_TEXT = re.compile(rb'[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+')
"""What may stand between the quotes of a JSON string; escaped surrogates, which must come in pairs, are left to the parser."""
_TEXT_STARTS = (b'"content":"', b'"text":"', b'"reasoning":"', b'"reasoning_content":"', b'"arguments":"')
_LOGPROBS = b'"logprobs":{'
_inside_string, _text_at = _TEXT.fullmatch, _TEXT.match


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

    Engines repeat every byte of a chunk but its text. So of a chunk that was parsed the bytes before and after its text are
    kept, and an event that has the same, with nothing but the inside of a JSON string between them, is the same chunk with
    another text: it ends nothing, reports nothing new, is no error, and is passed on without parsing. That is after the
    commit and for a single choice; everything else is parsed.
    """

    __slots__ = (
        "_after",
        "_after_bytes",
        "_before",
        "_before_bytes",
        "_choices",
        "_finished",
        "_learnings",
        "_strip_usage",
        "_unparsed",
    )

    def __init__(self, choices: int, strip_usage: bool) -> None:
        super().__init__()
        self._choices = choices
        self._strip_usage = strip_usage
        self._finished: dict[int, str] = {}
        """Why each choice that was seen ended; "" while it has not."""
        self._before = self._after = b""
        """Of the learned chunk, up to its text and from there on; empty while none is."""
        self._before_bytes = self._after_bytes = 0
        self._learnings = 0
        self._unparsed = False
        """An event begins with the next byte, and one like the learned chunk needs no parsing."""

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
            (
                data.endswith(self._after)
                and data.startswith(self._before)
                and _inside_string(data, self._before_bytes, len(data) - self._after_bytes) is not None
            )
            or self._are_like_learned(data)
        ):
            return data
        out = super().feed(data)
        self._unparsed = bool(self._before) and self._kept and not self._splitter.tail and not self.failed
        return out

    def _are_like_learned(self, data: bytes) -> bool:
        """Whole events, each of them the learned chunk with another text."""
        start, size = 0, len(data)
        while data.startswith(self._before, start):
            match = _text_at(data, start + self._before_bytes)
            if match is None or not data.startswith(self._after, match.end()):
                return False
            start = match.end() + self._after_bytes
            if start == size:
                return True
        return False

    def _all_finished(self) -> bool:
        return bool(self._finished) and all(self._finished.values())

    def _read(self, event: bytes, data: bytes) -> bool:
        if self._before and self._are_like_learned(event):
            return True
        if data == b"[DONE]":
            if not self._all_finished():
                return self._break("the stream said [DONE] before every choice had its finish_reason")
            self.done_seen = True
            return True
        try:
            chunk = (_CHUNK if self._committed and self.content_seen else _FULL_CHUNK).decode(data)
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
        if self._committed and self.content_seen and self._choices == len(finished) == len(chunk.choices) == 1:
            self._learn(event)
        return True

    def _learn(self, event: bytes) -> None:
        """Keep what stands around this chunk's text, if that alone is a chunk whose choice has not ended: so the text is a
        string within it, and any other string can take its place."""
        if self._learnings == LEARNINGS_MAX or event.find(_LOGPROBS) >= 0:  # which change with every token
            return
        self._learnings += 1
        for start in _TEXT_STARTS:
            at = event.find(start)
            if at >= 0:
                break
        else:
            return
        at += len(start)
        match = _text_at(event, at)
        if match is None:
            return
        before, after = event[:at], event[match.end() :]
        data = event_data(before + after)
        if not before.startswith(b"data: {") or not after.endswith(b"\n\n") or data is None:
            return
        try:
            chunk = _CHUNK.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if chunk.choices is not None and len(chunk.choices) == 1 and not chunk.choices[0].finish_reason:
            self._before, self._before_bytes = before, len(before)
            self._after, self._after_bytes = after, len(after)

    def _ending(self) -> bytes:
        if not self.whole or self.done_seen:
            return b""
        self.done_seen = True
        return DONE
