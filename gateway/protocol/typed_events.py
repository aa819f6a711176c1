"""Streams of `/v1/responses` and `/v1/messages`: every event has a type, and one type ends the stream."""

from __future__ import annotations

import msgspec

from gateway.protocol.event_shapes import ANY, MESSAGE_EVENT, RESPONSE_EVENT
from gateway.protocol.reader import StreamReader
from gateway.protocol.usage import Usage, WireUsage


class TypedEventStream(StreamReader):
    """A stream whose last event says so."""

    __slots__ = ("_finish_reason",)

    def __init__(self) -> None:
        super().__init__()
        self._finish_reason = ""

    @property
    def finish_reasons(self) -> tuple[str, ...]:
        """Why the reply ended."""
        return (self._finish_reason,) if self._finish_reason else ()

    @property
    def whole(self) -> bool:
        """The event that ends the stream has come."""
        return self.done_seen and not self.failed

    def _read(self, event: bytes, data: bytes) -> bool:
        if data == b"[DONE]":
            return True  # some servers add it; it says nothing here
        try:
            return self._read_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._break("an event of the stream is not one of the API")

    def _count_token(self) -> None:
        self.content_seen = True
        self.tokens += 1

    def _read_event(self, data: bytes) -> bool:
        raise NotImplementedError


class ResponseStream(TypedEventStream):
    """A responses stream: ends with `response.completed` or `response.incomplete`; `response.failed` and `error` are errors."""

    __slots__ = ()

    def _read_event(self, data: bytes) -> bool:
        event = RESPONSE_EVENT.decode(data)
        response = event.response
        if event.type == "error" or event.error:
            return self._fail(event.error or ANY.decode(data))
        if event.type == "response.failed":
            return self._fail(response.error if response is not None else None)
        if response is not None:
            self.model = response.model or self.model
            if response.usage is not None:
                self.usage = response.usage.usage() or self.usage
        if event.type == "response.completed" or event.type == "response.incomplete":
            incomplete = response.incomplete_details if response is not None else None
            self._finish_reason = (incomplete is not None and incomplete.reason) or event.type.removeprefix("response.")
            self.content_seen = self.done_seen = True
        elif event.delta and event.type.endswith(".delta"):
            self._count_token()
        return True


class MessageStream(TypedEventStream):
    """A messages stream: `message_start`, blocks, `message_delta` with the reason, `message_stop`."""

    __slots__ = ()

    def _read_event(self, data: bytes) -> bool:
        event = MESSAGE_EVENT.decode(data)
        if event.type == "error" or event.error:
            return self._fail(event.error or ANY.decode(data))
        if event.message is not None:
            self.model = event.message.model or self.model
            self._add_usage(event.message.usage)
        self._add_usage(event.usage)
        if event.type == "message_stop":
            self.content_seen = self.done_seen = True
        elif event.delta:
            reason = event.delta.get("stop_reason")
            if isinstance(reason, str):
                self._finish_reason = reason
            if any(value for name, value in event.delta.items() if name != "type"):
                self._count_token()
        return True

    def _add_usage(self, counted: WireUsage | None) -> None:
        """Counts are cumulative; the last events may leave the input out."""
        usage = counted.usage() if counted is not None else None
        if counted is None or usage is None:
            return
        before = self.usage or Usage(0, 0)
        self.usage = Usage(
            usage.input if counted.input_tokens is not None else before.input,
            usage.output if counted.output_tokens is not None else before.output,
        )
