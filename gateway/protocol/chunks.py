"""Streams of `/v1/chat/completions` and `/v1/completions`: chunks with choices, a usage chunk, `[DONE]`."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.protocol.chunk_shapes import CHUNK, COUNTED_CHUNK, OBJECT, ODD_CHUNK, SCORED_CHUNK, Chunk, CountedChoice, TextChoice
from gateway.protocol.evidence import EvidenceReader
from gateway.protocol.learned import Learned, learn
from gateway.protocol.reader import StreamReader
from gateway.protocol.spans import numbers_only
from gateway.protocol.stripping import LOGPROBS_NAME, UNREADABLE, strip, strip_event
from policies.scores import UNAVAILABLE, Scores

CHOICES_MAX: Final = 4096
"""Choices of one stream."""
LEARNINGS_MAX: Final = 100
"""Times that a stream is learned anew: some engines put the second into every chunk."""
DONE: Final = b"data: [DONE]\n\n"


class ChunkStream(StreamReader):
    """A chat or completions stream.

    Engines repeat every byte of a chunk but its text and its log-probabilities. So of a chunk that was parsed what stands around
    them is kept, and an event that has the same is passed on without parsing (`gateway.protocol.learned`). That is after the
    commit, or while evidence is read, and for a single choice; everything else is parsed.

    `evidence` reads the log-probabilities, before the commit and, where it says so, after it. What came only because the gateway
    asked for it is taken out.
    """

    __slots__ = (
        "_choices",
        "_evidence",
        "_finished",
        "_keep",
        "_learned",
        "_learnings",
        "_reads",
        "_strip_usage",
        "_unparsed",
    )

    def __init__(self, choices: int, strip_usage: bool, evidence: EvidenceReader | None = None) -> None:
        super().__init__()
        self._choices = choices
        self._strip_usage = strip_usage
        self._evidence = evidence
        self._reads = evidence is not None
        """Evidence is being read."""
        self._keep = evidence.keep if evidence is not None else None
        """As `EvidenceReader.keep`."""
        self._finished: dict[int, str] = {}
        """Why each choice that was seen ended; "" while it has not."""
        self._learned: Learned | None = None
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

    def scores(self) -> Scores:
        return self._evidence.scores() if self._evidence is not None else UNAVAILABLE

    def commit(self) -> None:
        super().commit()
        if self._evidence is not None and not self._evidence.after_commit:
            self._reads = False

    def feed(self, data: bytes) -> bytes:
        learned = self._learned
        if learned is None or not self._unparsed:
            return self._feed_parsed(data)
        if learned.middle_bytes:
            return self._feed_alike(learned, data)
        return data if learned.all_alike(data) else self._feed_parsed(data)

    def _feed_parsed(self, data: bytes) -> bytes:
        out = super().feed(data)
        self._unparsed = self._learned is not None and self._kept and not self._splitter.tail and not self.failed
        return out

    def _feed_alike(self, learned: Learned, data: bytes) -> bytes:
        """Events like the learned one, which has log-probabilities; from the first that is not they are parsed."""
        size = len(data)
        end = self._take_alike(learned, data, 0)
        if end == size:
            return data if learned.keep is None else learned.given(data, 0, end)
        start = 0
        parts: list[bytes] = []
        while end:
            parts.append(learned.given(data, start, end))
            start = end
            end = self._take_alike(learned, data, start) if start < size else 0
        if not start:
            return self._feed_parsed(data)
        if start < size:
            parts.append(self._feed_parsed(data[start:]))
        elif learned.keep is None:
            return data
        return b"".join(parts)

    def _take_alike(self, learned: Learned, data: bytes, start: int) -> int:
        """Take note of the event that begins at `start` if it is like the learned one; returns where it ends, or 0."""
        if not self._reads or self._evidence is None:
            return learned.alike(data, start)
        end = learned.alike(data, start, True)
        if end:
            begin = learned.logprobs_at
            text_end = begin + 1 - learned.middle_bytes
            kind = learned.kind if text_end > start + learned.before_bytes else ""
            tokens = self._evidence.take_alike(kind, data[begin : end - learned.after_bytes + 1])
            if tokens < 0:
                return 0
            self.tokens += tokens
        return end

    def _all_finished(self) -> bool:
        return bool(self._finished) and all(self._finished.values())

    def _read(self, event: bytes, data: bytes) -> bool:
        learned = self._learned
        if learned is not None and self._take_alike(learned, event, 0):
            return True
        if data == b"[DONE]":
            if not self._all_finished():
                return self._break("the stream said [DONE] before every choice had its finish_reason")
            self.done_seen = True
            return True
        try:
            chunk = self._decode(data)
            if chunk.error or chunk.object == "error":
                return self._fail(chunk.error or OBJECT.decode(data))
        except UNREADABLE:
            return self._break("an event of the stream is not a chunk of the API")
        for choice in chunk.choices or ():
            if isinstance(choice, TextChoice):
                self._take(choice)
        return self._note(chunk, event)

    def _decode(self, data: bytes) -> Chunk:
        """Raises what msgspec raises. NaN among the log-probabilities, which is no JSON, spoils them and not the answer."""
        decoder = SCORED_CHUNK if self._reads else CHUNK if self._committed and self.content_seen else COUNTED_CHUNK
        try:
            return decoder.decode(data)
        except msgspec.DecodeError:
            if self._evidence is None:
                raise
        readable = numbers_only(data)
        try:
            return decoder.decode(readable)
        except msgspec.ValidationError:
            return (ODD_CHUNK if self._reads else CHUNK).decode(readable)

    def _take(self, choice: TextChoice) -> None:
        if isinstance(choice, CountedChoice):
            self.tokens += choice.tokens()
        elif self._evidence is not None:
            self.tokens += self._evidence.take(choice)
        self.content_seen = self.content_seen or bool(choice.finish_reason) or choice.has_content()

    def _given(self, event: bytes, data: bytes) -> bytes:
        keep = self._keep
        if keep is None or data.find(LOGPROBS_NAME) < 0:
            return event
        learned = self._learned
        if learned is not None and learned.middle_bytes and (end := learned.alike(event, 0)):
            return learned.given(event, 0, end)
        try:
            return strip_event(event, data, strip(data, keep))
        except UNREADABLE:
            self._break("an event of the stream is not a chunk of the API")
            return b""

    def _note(self, chunk: Chunk, event: bytes) -> bool:
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
        if (self._committed or self._reads) and self.content_seen and self._choices == len(finished) == len(chunk.choices) == 1:
            self._learn(event)
        return True

    def _learn(self, event: bytes) -> None:
        """Keep what stands around this chunk's text. While evidence is read, only if there is some in it: text without any counts
        otherwise."""
        if self._learnings == LEARNINGS_MAX:
            return
        self._learnings += 1
        learned = learn(event, self._keep)
        if learned is not None and (learned.middle_bytes or not self._reads):
            self._learned = learned

    def _ending(self) -> bytes:
        if not self.whole or self.done_seen:
            return b""
        self.done_seen = True
        return DONE
