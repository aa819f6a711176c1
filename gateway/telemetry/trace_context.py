"""W3C Trace Context on the way through: continue a client's trace, or begin one, and hand it on to the backends.

Source: https://www.w3.org/TR/trace-context/ (level 1). The worker makes no spans, only ids: the controller builds the spans
from the record. Sampling is consistent (the trace id decides), so that several gateways keep the same traces.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

TRACESTATE_BYTES_MAX = 512
"""A longer `tracestate` is dropped; the specification asks for at least so much."""

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?").fullmatch
_TRACESTATE = re.compile(rb"[\x20-\x7e\t]+").fullmatch
_NO_TRACE = b"0" * 32
_NO_SPAN = b"0" * 16
_RANDOM = 1 << 56
"""The right-hand 56 bits of a trace id are the random ones, whoever made it: so many values they take."""


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """One exchange's place in a trace. Ids are lower-case hex as on the wire: 32 digits for a trace, 16 for a span."""

    trace_id: str
    span_id: str
    """Of the exchange itself."""
    parent_span_id: str
    """The client's span, "" where the trace begins here."""
    sampled: bool
    tracestate: bytes = b""


def continue_trace(
    traceparent: bytes | None, tracestate: bytes | None, sample_percent: float, new_id: Callable[[int], int]
) -> TraceContext:
    """The context of a request with these headers; `new_id(bits)` draws a random number of so many bits.

    A header that is not exactly as specified begins a new trace, and its `tracestate` is dropped with it. A sampled parent is
    followed; otherwise `sample_percent` (0-100) of the traces are sampled.
    """
    span_id = f"{new_id(64) or 1:016x}"
    match = None if traceparent is None else _TRACEPARENT(traceparent)
    if match is not None:
        version, trace, parent, flags, more = match.groups()
        # Version ff is forbidden; 00 ends here, later versions may go on.
        if version != b"ff" and (more is None or version != b"00") and trace != _NO_TRACE and parent != _NO_SPAN:
            trace_id = trace.decode()
            sampled = int(flags, 16) & 1 == 1 or _sampled(int(trace_id, 16), sample_percent)
            return TraceContext(trace_id, span_id, parent.decode(), sampled, _handed_on(tracestate))
    number = new_id(128) or 1
    return TraceContext(f"{number:032x}", span_id, "", _sampled(number, sample_percent))


def child_header(context: TraceContext, span_id: str) -> bytes:
    """The header lines, each ending in CRLF, of a call whose span is `span_id`."""
    flags = "01" if context.sampled else "00"
    line = f"traceparent: 00-{context.trace_id}-{span_id}-{flags}\r\n".encode()
    return line + b"tracestate: %s\r\n" % context.tracestate if context.tracestate else line


def _sampled(trace: int, percent: float) -> bool:
    """Whether the trace is among the sampled `percent`: what one percentage samples, a greater one samples too."""
    return trace % _RANDOM * 100 < percent * _RANDOM


def _handed_on(tracestate: bytes | None) -> bytes:
    if not tracestate or len(tracestate) > TRACESTATE_BYTES_MAX or _TRACESTATE(tracestate) is None:
        return b""
    return tracestate
