"""What a reply says to its client, streamed or whole: its text and its tool calls (`policies.agreement.Said`), for audits.

Read from the bytes that the client gets or would have got, as they come: a long reply costs memory for its text alone, and no long
look at its end. Reasoning is left out, a refusal is text.
"""

from __future__ import annotations

from io import StringIO
from typing import Any, Final, final

import msgspec

from gateway.protocol.sse import BOM, EventSplitter, event_data
from gateway.protocol.stripping import UNREADABLE
from policies.agreement import Said
from policies.plan import Endpoint


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    """Of `/v1/chat/completions`: a whole message, or what an event adds to it."""

    content: Any = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    delta: _Message | None = None
    text: str | None = None


class _Choices(msgspec.Struct):
    """A reply, or an event of one, of `/v1/chat/completions` and `/v1/completions`."""

    choices: list[_Choice] | None = None


class _Block(msgspec.Struct):
    """A block of a message, a delta of one, or an item of a response, or a part of that: whatever of these it has."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    content: Any = None
    name: str | None = None
    arguments: str | None = None
    input: Any = None
    partial_json: str | None = None


class _Response(msgspec.Struct):
    output: list[_Block] | None = None


class _ResponseEvent(msgspec.Struct):
    type: str = ""
    response: _Response | None = None


class _MessageReply(msgspec.Struct):
    content: list[_Block] | None = None


class _MessageEvent(msgspec.Struct):
    type: str = ""
    index: int = 0
    content_block: _Block | None = None
    delta: _Block | None = None


COMPARED_BYTES_MAX = 256 * 1024
"""Of a whole reply, or of what a streamed one says; a longer one is not compared."""

_CHOICES: Final = msgspec.json.Decoder(_Choices)
_RESPONSE: Final = msgspec.json.Decoder(_Response)
_RESPONSE_EVENT: Final = msgspec.json.Decoder(_ResponseEvent)
_MESSAGE: Final = msgspec.json.Decoder(_MessageReply)
_MESSAGE_EVENT: Final = msgspec.json.Decoder(_MessageEvent)


class _Gathering:
    """Text and tool calls, as they come."""

    def __init__(self) -> None:
        self._text = StringIO()
        self._tools: dict[int, list[str]] = {}
        """Of each place: name, then the pieces of the arguments."""
        self.size = 0
        """Characters of all of it."""
        self.begun = False
        """Something that is a reply has come."""

    def text(self, text: str | None) -> None:
        if text:
            self.size += len(text)
            self._text.write(text)

    def tool(self, place: int, name: str | None, arguments: Any) -> None:
        pieces = self._tools.setdefault(place, [""])
        pieces[0] = pieces[0] or name or ""
        if arguments is not None:
            pieces.append(arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode())
        self.size += 1 + len(name or "") + len(pieces[-1])  # an empty one takes room too

    def said(self) -> Said | None:
        if not self.begun:
            return None
        return Said(self._text.getvalue(), tuple([(pieces[0], "".join(pieces[1:])) for _, pieces in sorted(self._tools.items())]))


@final
class SaidReader:
    """Reads one reply of one choice to `endpoint`."""

    def __init__(self, endpoint: Endpoint, *, stream: bool) -> None:
        self._endpoint = endpoint
        self._splitter = EventSplitter() if stream else None
        self._whole: list[bytes] = []
        self._size = 0
        self._gathering = _Gathering()
        self._unreadable = False
        self.too_long = False
        """It says more than `COMPARED_BYTES_MAX`, and nothing is kept of it."""

    def feed(self, data: bytes) -> None:
        """What comes next of it. Never raises."""
        if self.too_long or self._unreadable:
            return
        splitter = self._splitter
        if splitter is None:
            self._whole.append(data)
            self._size += len(data)
        else:
            try:
                for event in splitter.split(data):
                    said = event_data(event.removeprefix(BOM))
                    if said is not None and said != b"[DONE]":
                        self._take_event(said)
            except UNREADABLE:
                self._unreadable = True
            self._size = self._gathering.size + len(splitter.tail)
        if self._size > COMPARED_BYTES_MAX:
            self.too_long = True
            self._whole = []
            self._gathering = _Gathering()

    def said(self) -> Said | None:
        """What it says, once it is whole. None where that cannot be told: it is not what the endpoint answers, or that is no text."""
        if self._whole:
            try:
                self._take_whole(b"".join(self._whole))
            except UNREADABLE:
                self._unreadable = True
            self._whole = []
        return None if self.too_long or self._unreadable else self._gathering.said()

    def _take_whole(self, reply: bytes) -> None:
        match self._endpoint:
            case "chat" | "completions":
                _take_choices(self._gathering, _CHOICES.decode(reply))
            case "responses":
                _take_blocks(self._gathering, _RESPONSE.decode(reply).output)
            case "messages":
                _take_blocks(self._gathering, _MESSAGE.decode(reply).content)

    def _take_event(self, data: bytes) -> None:
        match self._endpoint:
            case "chat" | "completions":
                _take_choices(self._gathering, _CHOICES.decode(data))
            case "responses":
                event = _RESPONSE_EVENT.decode(data)
                # The event that ends a response has all of it.
                if event.response is not None and event.type in ("response.completed", "response.incomplete"):
                    _take_blocks(self._gathering, event.response.output)
            case "messages":
                _take_message_event(self._gathering, _MESSAGE_EVENT.decode(data))


def _take_choices(gathering: _Gathering, reply: _Choices) -> None:
    """A reply, or one event of it."""
    for choice in reply.choices or ():
        gathering.begun = True
        gathering.text(choice.text)
        message = choice.message or choice.delta
        if message is None:
            continue
        gathering.text(_text(message.content))
        gathering.text(message.refusal)
        for place, call in enumerate(message.tool_calls or ()):
            if call.function is not None:
                gathering.tool(place if call.index is None else call.index, call.function.name, call.function.arguments)
        if message.function_call is not None:
            gathering.tool(0, message.function_call.name, message.function_call.arguments)


def _text(content: Any) -> str:
    """Of a message's content: a text, or parts of which some are."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "".join([part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)])


def _take_blocks(gathering: _Gathering, blocks: list[_Block] | None) -> None:
    """The blocks of a whole message, or the items of a whole response."""
    if blocks is None:
        return
    gathering.begun = True
    for place, block in enumerate(blocks):
        match block.type:
            case "text":
                gathering.text(block.text)
            case "message":
                for part in msgspec.convert(block.content or [], list[_Block]):
                    gathering.text(part.text or part.refusal)
            case "tool_use" | "function_call":
                gathering.tool(place, block.name, block.input if block.arguments is None else block.arguments)


def _take_message_event(gathering: _Gathering, event: _MessageEvent) -> None:
    """Each block of a message begins, and is added to."""
    gathering.begun = gathering.begun or event.type == "message_start"
    block, delta = event.content_block, event.delta
    if block is not None and block.type == "tool_use":
        gathering.tool(event.index, block.name, block.input or None)
    elif block is not None and block.type == "text":
        gathering.text(block.text)
    if delta is not None and event.type == "content_block_delta":
        if delta.partial_json is not None:
            gathering.tool(event.index, None, delta.partial_json)
        else:
            gathering.text(delta.text)
