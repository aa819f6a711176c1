"""Asking a backend for evidence: which fields of the request say so, and what of the answer is the client's."""

from __future__ import annotations

from gateway.protocol.stripping import NOTHING
from policies.plan import Endpoint, Evidence


def asked(endpoint: Endpoint, logprobs: bool, top: int | None, evidence: Evidence) -> list[tuple[str, bytes]]:
    """The top-level fields that ask for evidence, where the client's `logprobs` and `top` (`Body.top_logprobs`) do not; what it
    asked for is never lowered. Endpoints other than chat and completions have no evidence that can be read."""
    if endpoint == "completions":
        number = _number(top, evidence.top) or 1
        return [] if number == top else [("logprobs", b"%d" % number)]
    if endpoint != "chat":
        return []
    number = _number(top, evidence.top)
    fields = [] if logprobs else [("logprobs", b"true")]
    return fields if not number or number == top else [*fields, ("top_logprobs", b"%d" % number)]


def kept(endpoint: Endpoint, logprobs: bool, top: int | None, evidence: Evidence) -> int | None:
    """How much of the log-probabilities that then come is for the client: None all of it, `NOTHING` none, else that many of the
    likeliest tokens at each position."""
    if endpoint == "completions":
        if top is None:
            return NOTHING
        return None if _number(top, evidence.top) == top else top
    if endpoint != "chat":
        return None
    if not logprobs:
        return NOTHING
    own = top or 0
    return None if _number(top, evidence.top) == own else own


def _number(own: int | None, wanted: int) -> int:
    """How many of the likeliest tokens to ask for. A 0 that the client wrote is raised to 1: llama-server takes it for no
    log-probabilities at all. A negative number asks for all."""
    if own is None:
        return wanted
    return own if own < 0 else max(own, wanted, 1)
