"""Reading a reply that is not streamed: is it one, and what did it cost."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.protocol.errors import error_message
from gateway.protocol.reply_shapes import REPLY, ReplyFacts
from policies.plan import Endpoint

__all__ = ["ReplyFacts", "read_reply"]


def read_reply(endpoint: Endpoint, body: bytes) -> ReplyFacts:
    """Read a reply whose status was 200."""
    try:
        reply = REPLY.decode(body)
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
