"""W3C Trace Context on the way through: continue a client's trace, or begin one, and hand it on to the backends.

Source: https://www.w3.org/TR/trace-context/ (level 1). The worker makes no spans, only ids: the controller builds the spans
from the record. Sampling is consistent (the trace id decides), so that several gateways keep the same traces.
"""

from __future__ import annotations

import math
import re
from typing import Final, final

TRACESTATE_BYTES_MAX: Final = 512
"""A longer `tracestate` is dropped; the specification asks for at least so much."""

_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?").fullmatch
_TRACESTATE: Final = re.compile(rb"[\x20-\x7e\t]+").fullmatch
_NO_TRACE: Final = b"0" * 32
_NO_SPAN: Final = b"0" * 16
_RANDOM_DIGITS: Final = 14
"""The right-hand 56 bits of a trace id are the random ones, whoever made it."""
_BEYOND: Final = "g"
"""Sorts after every hex digit."""


@final
class TraceContext:
    """One exchange's place in a trace. Ids are lower-case hex as on the wire: 32 digits for a trace, 16 for a span."""

    __slots__ = ("parent_span_id", "sampled", "span_id", "trace_id", "tracestate")

    def __init__(self, trace_id: str, span_id: str, parent_span_id: str, sampled: bool, tracestate: bytes = b"") -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        """Of the exchange itself."""
        self.parent_span_id = parent_span_id
        """The client's span, "" where the trace begins here."""
        self.sampled = sampled
        self.tracestate = tracestate


def sampling_bound(percent: float) -> str:
    """Traces whose random digits sort before this are sampled: `percent` (0-100) of them. What one percentage samples, a greater one
    samples too."""
    return _BEYOND if percent >= 100.0 else format(math.ceil(max(0.0, percent) / 100 * 16**_RANDOM_DIGITS), f"0{_RANDOM_DIGITS}x")


def continue_trace(traceparent: bytes | None, tracestate: bytes | None, bound: str, new_trace_id: str, span_id: str) -> TraceContext:
    """The context of a request with these headers; `new_trace_id` and `span_id` are random hex digits.

    A header that is not exactly as specified begins a new trace, and its `tracestate` is dropped with it. A sampled parent is
    followed; otherwise the traces before `bound` (`sampling_bound`) are sampled.
    """
    match = None if traceparent is None else _TRACEPARENT(traceparent)
    if match is not None:
        version, trace, parent, flags, more = match.groups()
        # Version ff is forbidden; 00 ends here, later versions may go on.
        if version != b"ff" and (more is None or version != b"00") and trace != _NO_TRACE and parent != _NO_SPAN:
            trace_id: str = trace.decode()
            sampled = int(flags, 16) & 1 == 1 or trace_id[-_RANDOM_DIGITS:] < bound
            return TraceContext(trace_id, span_id, parent.decode(), sampled, _handed_on(tracestate))
    return TraceContext(new_trace_id, span_id, "", new_trace_id[-_RANDOM_DIGITS:] < bound)


def child_header(context: TraceContext, span_id: str) -> bytes:
    """The header lines, each ending in CRLF, of a call whose span is `span_id`."""
    flags = "01" if context.sampled else "00"
    line = f"traceparent: 00-{context.trace_id}-{span_id}-{flags}\r\n".encode()
    return line + b"tracestate: %s\r\n" % context.tracestate if context.tracestate else line


def _handed_on(tracestate: bytes | None) -> bytes:
    if not tracestate or len(tracestate) > TRACESTATE_BYTES_MAX or _TRACESTATE(tracestate) is None:
        return b""
    return tracestate
