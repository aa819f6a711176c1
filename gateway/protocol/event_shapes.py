"""What is read of an event of `/v1/responses` and `/v1/messages`, and how."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.protocol.usage import WireUsage


class Incomplete(msgspec.Struct):
    """Why a response was cut short."""

    reason: str | None = None


class Response(msgspec.Struct):
    """The response that an event tells of."""

    model: str | None = None
    usage: WireUsage | None = None
    incomplete_details: Incomplete | None = None
    error: Any = None


class ResponseEvent(msgspec.Struct):
    """An event of `/v1/responses`."""

    type: str = ""
    delta: Any = None
    response: Response | None = None
    error: Any = None


class Message(msgspec.Struct):
    """The message that an event begins."""

    model: str | None = None
    usage: WireUsage | None = None


class MessageEvent(msgspec.Struct):
    """An event of `/v1/messages`."""

    type: str = ""
    message: Message | None = None
    delta: dict[str, Any] | None = None
    usage: WireUsage | None = None
    error: Any = None


RESPONSE_EVENT: Final = msgspec.json.Decoder(ResponseEvent)
MESSAGE_EVENT: Final = msgspec.json.Decoder(MessageEvent)
ANY: Final = msgspec.json.Decoder(Any)
