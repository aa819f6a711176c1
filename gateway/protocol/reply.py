"""Reading a reply that is not streamed: is it one, and what did it cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.protocol.errors import error_message
from gateway.protocol.usage import Usage, WireUsage
from policies.plan import Endpoint


class ReplyFacts(msgspec.Struct, frozen=True, gc=False):
    """What a whole reply says beside its content."""

    usage: Usage | None = None
    finish_reasons: tuple[str, ...] = ()
    """Why each choice ended; for responses and messages the reply's own reason."""
    model: str = ""
    """The model as the backend names it."""
    problem: str | None = None
    """Why this is no reply, though its status was 200: it is not what the endpoint answers, or is an error."""


class _Choice(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: str | None = None


class _Reply(msgspec.Struct, gc=False):
    """Any endpoint's reply. Chat and completions have `choices`, embeddings `data`, responses `output`, messages `content`."""

    choices: list[_Choice] | None = None
    data: list[msgspec.Raw] | None = None
    output: list[msgspec.Raw] | None = None
    content: list[msgspec.Raw] | None = None
    usage: WireUsage | None = None
    model: str | None = None
    error: Any = None
    object: str | None = None
    type: str | None = None
    message: Any = None
    status: str | None = None
    incomplete_details: _Incomplete | None = None
    stop_reason: str | None = None


_REPLY = msgspec.json.Decoder(_Reply)


def read_reply(endpoint: Endpoint, body: bytes) -> ReplyFacts:
    """Read a reply whose status was 200."""
    try:
        reply = _REPLY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return ReplyFacts(problem=f"the reply is not what /{endpoint} answers: {error}"[:200])
    if reply.error or reply.status == "failed" or reply.object == "error" or reply.type == "error":
        return ReplyFacts(problem=f"the reply is an error: {error_message(reply.error or reply.message) or 'without a message'}")
    main: Sequence[object] | None
    reasons: list[str | None]
    if endpoint == "chat" or endpoint == "completions":
        main = choices = reply.choices or None
        reasons = [choice.finish_reason for choice in choices or ()]
    elif endpoint == "responses":
        main, reasons = reply.output, [(reply.incomplete_details and reply.incomplete_details.reason) or reply.status]
    elif endpoint == "messages":
        main, reasons = reply.content, [reply.stop_reason]
    else:
        main, reasons = reply.data, []
    if main is None:
        return ReplyFacts(problem=f"the reply is not what /{endpoint} answers: it has no content")
    usage = reply.usage.usage() if reply.usage is not None else None
    return ReplyFacts(usage, tuple([reason for reason in reasons if reason]), reply.model or "")
