from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.trace_context import TRACESTATE_BYTES_MAX, TraceContext, child_header, continue_trace, sampling_bound

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.fixture
def fresh() -> Callable[[], tuple[str, str]]:
    return ids(7)


def ids(seed: int) -> Callable[[], tuple[str, str]]:
    """Draws a trace id and a span id."""
    draw = random.Random(seed).getrandbits
    return lambda: (f"{draw(128):032x}", f"{draw(64):016x}")


def test_a_trace_is_continued(fresh: Callable[[], tuple[str, str]]) -> None:
    context = continue_trace(f"00-{TRACE}-{PARENT}-01".encode(), b"vendor=x,other=y", sampling_bound(0.0), *fresh())
    assert (context.trace_id, context.parent_span_id, context.sampled, context.tracestate) == (TRACE, PARENT, True, b"vendor=x,other=y")
    assert re.fullmatch("[0-9a-f]{16}", context.span_id)
    assert context.span_id != PARENT


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{PARENT}-00", False),
        (f"00-{TRACE}-{PARENT}-02", False),
        (f"00-{TRACE}-{PARENT}-03", True),
        (f"00-{TRACE}-{PARENT}-ff", True),
        (f"cc-{TRACE}-{PARENT}-01", True),
        (f"cc-{TRACE}-{PARENT}-01-what the future brings".replace(" ", "."), True),
        (f"cc-{TRACE}-{PARENT}-01-", True),
    ],
)
def test_flags_and_later_versions(header: str, sampled: bool, fresh: Callable[[], tuple[str, str]]) -> None:
    context = continue_trace(header.encode(), None, sampling_bound(0.0), *fresh())
    assert (context.trace_id, context.parent_span_id, context.sampled) == (TRACE, PARENT, sampled)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-011",
        f"cc-{TRACE}-{PARENT}-01.more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT.upper()}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}0-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        f" 00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01 ",
        f"00-{TRACE}-{PARENT}-01\n",
        f"00-{TRACE}-{PARENT}-01, 00-{TRACE}-{PARENT}-01",
        f"00_{TRACE}_{PARENT}_01",
        f"0-{TRACE}-{PARENT}-01",
    ],
)
def test_a_bad_header_begins_a_new_trace_without_its_state(header: str, fresh: Callable[[], tuple[str, str]]) -> None:
    context = continue_trace(header.encode(), b"vendor=x", sampling_bound(100.0), *fresh())
    assert context.trace_id != TRACE
    assert (context.parent_span_id, context.tracestate, context.sampled) == ("", b"", True)
    assert re.fullmatch("[0-9a-f]{32}", context.trace_id)


@given(st.binary(max_size=80), st.binary(max_size=20))
def test_any_bytes_give_a_sane_context(traceparent: bytes, tracestate: bytes) -> None:
    context = continue_trace(traceparent, tracestate, sampling_bound(50.0), *ids(1)())
    assert re.fullmatch("[0-9a-f]{32}", context.trace_id)
    lines = child_header(context, "00000000000000aa")
    assert lines.endswith(b"\r\n")
    assert lines.count(b"\r\n") == lines.count(b"\n") == (2 if context.tracestate else 1)


@pytest.mark.parametrize("tracestate", [b"", b"a=" + b"x" * TRACESTATE_BYTES_MAX, b"a=\xff", b"a=b\r\nx: y", b"a=\x00"])
def test_a_bad_tracestate_is_dropped_alone(tracestate: bytes, fresh: Callable[[], tuple[str, str]]) -> None:
    context = continue_trace(f"00-{TRACE}-{PARENT}-01".encode(), tracestate, sampling_bound(0.0), *fresh())
    assert (context.trace_id, context.tracestate) == (TRACE, b"")


def test_the_share_that_is_sampled_is_the_one_asked_for(fresh: Callable[[], tuple[str, str]]) -> None:
    assert not any(continue_trace(None, None, sampling_bound(0.0), *fresh()).sampled for _ in range(1_000))
    assert all(continue_trace(None, None, sampling_bound(100.0), *fresh()).sampled for _ in range(1_000))
    assert 800 < sum(continue_trace(None, None, sampling_bound(10.0), *fresh()).sampled for _ in range(10_000)) < 1_200


@given(st.integers(1, 2**128 - 1), st.floats(0, 100), st.floats(0, 100))
def test_the_trace_id_decides_and_more_includes_less(trace: int, one: float, other: float) -> None:
    header = f"00-{trace:032x}-{PARENT}-00".encode()
    less, more = (continue_trace(header, None, sampling_bound(percent), *ids(3)()).sampled for percent in sorted((one, other)))
    assert more or not less


def test_the_childs_header() -> None:
    context = TraceContext(TRACE, "1111111111111111", PARENT, True)
    assert child_header(context, "2222222222222222") == f"traceparent: 00-{TRACE}-2222222222222222-01\r\n".encode()
    context = TraceContext(TRACE, "1111111111111111", "", False, b"a=b")
    assert child_header(context, "2222222222222222") == f"traceparent: 00-{TRACE}-2222222222222222-00\r\ntracestate: a=b\r\n".encode()
