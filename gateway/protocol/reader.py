"""What every reader of a streamed reply does: cut events, withhold those the client must not get, notice the end."""

from __future__ import annotations

from typing import Any, Final

from gateway.protocol.errors import error_message
from gateway.protocol.sse import BOM, EventSplitter, event_data, is_line_end
from gateway.protocol.usage import Usage
from policies.scores import UNAVAILABLE, Scores

EVENT_BYTES_MAX: Final = 8 * 1024 * 1024
"""One event of a stream; a larger one breaks it."""


class StreamReader:
    """Reads one streamed reply: bytes in, the bytes that the client may be given out, untouched and only whole events.

    After `error` or `broken` nothing more comes out. The result does not depend on how the stream was cut into reads.
    """

    __slots__ = (
        "_committed",
        "_kept",
        "_opening",
        "_splitter",
        "broken",
        "content_seen",
        "done_seen",
        "error",
        "failed",
        "model",
        "tokens",
        "usage",
    )

    def __init__(self) -> None:
        self._splitter = EventSplitter()
        self._opening = True
        """No event has been seen: a byte order mark may come."""
        self._kept = True
        """The last event was passed on."""
        self._committed = False
        self.failed = False
        """`broken` or `error` is set."""
        self.broken: str | None = None
        """Why this is not the stream it had to be."""
        self.error: str | None = None
        """The error that the backend sent within the stream, which is not passed on."""
        self.content_seen = False
        """An event with content, or with the end of a choice, has been seen. One that only names the role is not."""
        self.done_seen = False
        """The stream said that it is over."""
        self.tokens = 0
        """Tokens of content before `commit`: the log-probability entries where the backend gives them, else the events. Where
        evidence is read, those of the kind that it is read of."""
        self.model = ""
        """The model as the backend names it."""
        self.usage: Usage | None = None

    @property
    def finish_reasons(self) -> tuple[str, ...]:
        """Why each choice ended, in the order of their index."""
        raise NotImplementedError

    @property
    def whole(self) -> bool:
        """Nothing of the reply is missing."""
        raise NotImplementedError

    def scores(self) -> Scores:
        """Of the evidence that was read so far."""
        return UNAVAILABLE

    def commit(self) -> None:
        """Nobody asks for `tokens` any more: what need not be parsed is not."""
        self._committed = True

    def feed(self, data: bytes) -> bytes:
        """Take what one read brought; returns what the client may be given now, the same object where that is all of it."""
        if self.failed:
            return b""
        splitter = self._splitter
        altered = bool(splitter.tail)
        kept = []
        for event in splitter.split(data):
            given = self._take_event(event)
            if given is not event:
                altered = True
            if given:
                kept.append(given)
            elif self.failed:
                splitter.tail.clear()
                break
        if splitter.tail:
            altered = True
            if len(splitter.tail) > EVENT_BYTES_MAX:
                splitter.tail.clear()
                self._break(f"an event of the stream is larger than {EVENT_BYTES_MAX} bytes")
        return b"".join(kept) if altered else data

    def end(self) -> bytes:
        """The stream has ended; returns what the client must still be given. An event that lacks only its blank line gets it;
        half of one is dropped."""
        tail = bytes(self._splitter.tail)
        out = b""
        if tail and not self.failed:
            self._splitter.tail.clear()
            event = tail + (b"\n" if tail.endswith(b"\n") else b"\n\n")
            out = self._take_event(event)
            if self.broken is not None:
                self.broken, self.failed = None, False
        return out + self._ending()

    def _take_event(self, event: bytes) -> bytes:
        """Take note of an event; returns it as the client may be given it, empty if it must not get it."""
        opening, self._opening = self._opening, False
        if is_line_end(event):
            return event if self._kept else b""  # with what it follows
        data = event_data(event.removeprefix(BOM) if opening else event)
        if data is None:
            self._kept = True
            return event
        self._kept = self._read(event, data)
        return self._given(event, data) if self._kept else b""

    def _read(self, event: bytes, data: bytes) -> bool:
        """Take note of an event that has data; False if the client must not get it."""
        raise NotImplementedError

    def _given(self, event: bytes, data: bytes) -> bytes:
        """An event that has data and goes to the client, as it goes there."""
        return event

    def _break(self, why: str) -> bool:
        """The stream is not what it had to be; False, since what shows it is not for the client."""
        self.broken, self.failed = why, True
        return False

    def _fail(self, error: Any) -> bool:
        """The backend sent an error object or text; False, since the client is told of it in our words."""
        self.error, self.failed = error_message(error) or "an error without a message", True
        return False

    def _ending(self) -> bytes:
        """What a whole stream still lacks."""
        return b""
