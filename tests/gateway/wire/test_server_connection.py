"""Transcripts of one client and the server: reads in, writes out, byte for byte."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.base import Reply, ServerLimits
from gateway.wire.request import Request
from tests.gateway.wire.rig import DATE, ServerRig

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\ncontent-length: 3\r\n\r\nabc"
OK = b"HTTP/1.1 200 OK\r\n" + DATE


def echo(request: Request, reply: Reply) -> None:
    reply.send(200, b"", request.path + request.body)


def fault(status: bytes, message: bytes) -> bytes:
    fields = b"content-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(message)
    return b"HTTP/1.1 " + status + b"\r\n" + DATE + fields + message


def test_a_whole_answer_is_one_write() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET)
    rig.replies[0].send(200, b"x: y\r\n", b"hello")
    assert client.transport.writes == [OK + b"x: y\r\ncontent-length: 5\r\n\r\nhello"]
    assert (rig.replies[0].started, rig.replies[0].bytes_out) == (True, 5)


def test_a_large_answer_is_one_write_too() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET)
    rig.replies[0].send(200, b"", b"x" * 100_000)
    assert client.transport.writes == [OK + b"content-length: 100000\r\n\r\n" + b"x" * 100_000]


def test_a_chunked_answer() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET)
    (reply,) = rig.replies
    reply.start(200, b"x: y\r\n", b"0123456789abcdef")
    reply.write(b"b")
    reply.write(b"")
    reply.write(b"c" * 70_000)
    reply.end(b"d")
    assert client.transport.writes == [
        OK + b"x: y\r\ntransfer-encoding: chunked\r\n\r\n10\r\n0123456789abcdef\r\n",
        b"1\r\nb\r\n",
        b"11170\r\n" + b"c" * 70_000 + b"\r\n",
        b"1\r\nd\r\n0\r\n\r\n",
    ]
    assert reply.bytes_out == 70_018
    client.says(GET)
    assert len(rig.requests) == 2


def test_what_comes_after_the_end_is_ignored() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET)
    late = rig.replies[0]
    late.send(200, b"", b"")
    client.says(GET)
    client.hears()
    late.send(500, b"", b"late")
    late.start(500, b"", b"late")
    late.write(b"late")
    late.end(b"late")
    late.abort()
    assert client.hears() == b""
    assert not client.transport.closing
    rig.replies[1].send(200, b"", b"mine")
    assert client.hears().endswith(b"mine")


def test_misuse_of_a_reply_is_an_error() -> None:
    rig = ServerRig()
    rig.client().says(GET)
    (reply,) = rig.replies
    with pytest.raises(RuntimeError):
        reply.write(b"x")
    with pytest.raises(RuntimeError):
        reply.end()
    reply.start(200, b"")
    with pytest.raises(RuntimeError):
        reply.start(200, b"")
    with pytest.raises(RuntimeError):
        reply.send(200, b"", b"")


def test_an_open_connection_follows_limits_that_change() -> None:
    rig = ServerRig(ServerLimits(body_bytes_max=1))
    rig.answer = lambda request, reply: reply.send(200, b"", request.body)
    client = rig.client()
    post = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab"
    client.says(post.replace(b"2", b"1")[:-1])
    assert client.hears().endswith(b"\r\n\r\na")
    rig.server.limits = ServerLimits(body_bytes_max=2)
    client.says(post)
    assert client.hears().endswith(b"\r\n\r\nab")


def test_http10_gets_its_answer_delimited_by_closing() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
    (reply,) = rig.replies
    reply.start(200, b"", b"a")
    reply.write(b"b")
    reply.end(b"c")
    assert client.hears() == OK + b"connection: close\r\n\r\nabc"
    assert client.transport.closing


def test_http10_keep_alive() -> None:
    rig = ServerRig()
    rig.answer = echo
    client = rig.client()
    client.says(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
    assert client.hears() == OK + b"content-length: 1\r\nconnection: keep-alive\r\n\r\n/"
    client.says(b"GET / HTTP/1.0\r\n\r\n")
    assert client.hears() == OK + b"content-length: 1\r\nconnection: close\r\n\r\n/"
    assert client.transport.closing


def test_connection_close_and_what_is_sent_after_it() -> None:
    rig = ServerRig()
    rig.answer = echo
    client = rig.client()
    client.says(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + GET)
    assert client.hears() == OK + b"content-length: 1\r\nconnection: close\r\n\r\n/"
    assert client.transport.closing
    assert not client.transport.aborted
    assert rig.hooks.seen == ["opened"]


def test_head_has_no_body() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET.replace(b"GET", b"HEAD"))
    rig.replies[0].send(200, b"", b"hello")
    assert client.hears() == OK + b"content-length: 5\r\n\r\n"
    client.says(GET.replace(b"GET", b"HEAD"))
    rig.replies[1].start(200, b"", b"hello")
    rig.replies[1].write(b"hello")
    rig.replies[1].end(b"hello")
    assert client.hears() == OK + b"transfer-encoding: chunked\r\n\r\n"
    assert rig.replies[1].bytes_out == 0


def test_204_has_neither_body_nor_length() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET)
    rig.replies[0].send(204, b"", b"x")
    client.says(GET)
    rig.replies[1].start(304, b"", b"x")
    rig.replies[1].end(b"x")
    assert client.hears() == b"HTTP/1.1 204 No Content\r\n" + DATE + b"\r\nHTTP/1.1 304 Not Modified\r\n" + DATE + b"\r\n"


def test_pipelined_requests_are_answered_one_after_the_other() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET + GET.replace(b"/a", b"/b"), GET.replace(b"/a", b"/c")[:10], GET.replace(b"/a", b"/c")[10:])
    assert [request.path for request in rig.requests] == [b"/a"]
    rig.replies[0].send(200, b"", b"1")
    rig.loop.run()
    assert [request.path for request in rig.requests] == [b"/a", b"/b"]
    rig.replies[1].send(200, b"", b"2")
    rig.loop.run()
    rig.replies[2].send(200, b"", b"3")
    assert [request.path for request in rig.requests] == [b"/a", b"/b", b"/c"]
    assert client.hears().count(b"HTTP/1.1 200 OK") == 3


def test_requests_before_garbage_are_answered_first() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET + b"GARBAGE\r\n\r\n")
    rig.replies[0].send(200, b"", b"1")
    rig.loop.run()
    heard = client.hears()
    assert heard.startswith(OK + b"content-length: 1\r\n\r\n1HTTP/1.1 400 Bad Request\r\n")
    assert len(rig.requests) == 1


def test_reading_pauses_where_too_much_is_sent_ahead() -> None:
    rig = ServerRig(ServerLimits(pipelined_bytes_max=100))
    client = rig.client()
    client.says(GET, GET * 3)
    assert client.transport.reading
    client.says(GET)
    assert not client.transport.reading
    for number in range(5):
        rig.replies[number].send(200, b"", b"")
        rig.loop.run()
    assert client.transport.reading
    assert len(rig.requests) == 5


def test_a_large_pipelined_body_goes_in_as_it_is_taken() -> None:
    rig = ServerRig(ServerLimits(pipelined_bytes_max=100))
    client = rig.client()
    client.says(GET, b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9000\r\n\r\n" + b"a" * 5000)
    assert not client.transport.reading
    rig.replies[0].send(200, b"", b"")
    rig.loop.run()
    assert client.transport.reading
    client.says(b"a" * 4000)
    assert rig.requests[1].body == b"a" * 9000


def test_leaving_while_reading_is_paused_is_noticed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        rig = ServerRig(ServerLimits(pipelined_bytes_max=1000))
        client = rig.client()
        client.transport._extra["socket"] = ours
        client.says(GET, GET + b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9000\r\n\r\n" + b"a" * 5000)
        rig.replies[0].send(200, b"", b"")
        rig.loop.run()
        assert len(rig.requests) == 2
        assert not client.transport.reading
        theirs.send(b"unread")
        rig.passes(1)
        assert rig.watchers[1].seen == []
        theirs.close()
        rig.passes(1)
        assert rig.watchers[1].seen == ["left"]
        assert client.transport.aborted


def test_leaving_before_the_answer() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET)
    client.leaves()
    assert rig.watchers[0].seen == ["left"]
    rig.replies[0].send(200, b"", b"x")
    rig.replies[0].abort()
    assert client.hears() == b""
    assert rig.server.connections_open == 0
    assert rig.hooks.seen == ["opened", "closed"]


def test_leaving_in_the_middle_of_the_answer_and_with_another_request_waiting() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET + GET)
    rig.replies[0].start(200, b"", b"x")
    client.is_gone()
    rig.loop.run()
    assert rig.watchers[0].seen == ["left"]
    assert len(rig.requests) == 1


def test_leaving_between_two_pipelined_requests() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET + GET)
    rig.replies[0].send(200, b"", b"x")
    client.is_gone()
    rig.loop.run()
    assert rig.watchers[0].seen == []
    assert len(rig.requests) == 1


def test_an_observer_that_fails_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET)
    rig.replies[0].observer = None
    client.leaves()
    other = rig.client()
    other.says(GET)

    class Bad:
        def client_left(self) -> None:
            raise ValueError("bad observer")

        def pause_writing(self) -> None: ...
        def resume_writing(self) -> None: ...

    rig.replies[1].observer = Bad()
    other.leaves()
    assert rig.server.connections_open == 0
    assert "bad observer" in caplog.text


def test_abort_cuts_off_and_is_not_told_of_it() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET)
    rig.replies[0].start(200, b"", b"x")
    rig.replies[0].abort()
    assert client.transport.aborted
    client.is_gone()
    assert rig.watchers[0].seen == []


def test_a_handler_that_fails_before_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    rig = ServerRig()

    def fail(request: Request, reply: Reply) -> None:
        raise ValueError("a bug")

    rig.answer = fail
    client = rig.client()
    client.says(GET)
    assert client.hears() == fault(b"500 Internal Server Error", b"The gateway failed to handle the request.")
    assert client.transport.eof_written
    assert "a bug" in caplog.text
    assert rig.hooks.seen == ["opened", "500"]


def test_a_handler_that_fails_after_it_began() -> None:
    rig = ServerRig()

    def fail(request: Request, reply: Reply) -> None:
        reply.start(200, b"")
        raise ValueError("a bug")

    rig.answer = fail
    client = rig.client()
    client.says(GET)
    assert client.transport.aborted


def test_a_handler_that_fails_after_it_answered() -> None:
    rig = ServerRig()

    def fail(request: Request, reply: Reply) -> None:
        reply.send(200, b"", b"")
        raise ValueError("a bug")

    rig.answer = fail
    client = rig.client()
    client.says(GET, GET)
    assert client.hears() == (OK + b"content-length: 0\r\n\r\n") * 2


def test_100_continue() -> None:
    rig = ServerRig()
    rig.answer = echo
    client = rig.client()
    client.says(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
    assert client.hears() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.says(b"a", b"bc")
    assert client.hears() == OK + b"content-length: 4\r\n\r\n/abc"


def test_100_continue_waits_for_the_answer_before_it() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET + b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
    assert client.hears() == b""
    rig.replies[0].send(200, b"", b"")
    rig.loop.run()
    # The answer could not know of it; the client waits for its own timeout or for this.
    assert client.hears() == OK + b"content-length: 0\r\n\r\n" + b"HTTP/1.1 100 Continue\r\n\r\n"


def test_no_100_continue_for_a_body_that_is_too_large() -> None:
    rig = ServerRig(ServerLimits(body_bytes_max=10))
    client = rig.client()
    client.says(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\ncontent-length: 30\r\n\r\n")
    assert client.hears() == fault(b"413 Content Too Large", b"The request's body is larger than 10 bytes.")


def test_a_refused_client_may_read_why_before_it_is_cut_off() -> None:
    rig = ServerRig(ServerLimits(body_bytes_max=10, linger_timeout_s=5))
    client = rig.client()
    client.says(b"POST / HTTP/1.1\r\nHost: h\r\ncontent-length: 30000\r\n\r\n")
    assert client.transport.eof_written
    assert not client.transport.closing
    client.says(b"a" * 20_000)
    rig.passes(4.9)
    assert not client.transport.closing
    rig.passes(0.2)
    assert client.transport.aborted
    assert rig.hooks.seen == ["opened", "413"]


@pytest.mark.parametrize(
    ("said", "wait", "answer"),
    [
        ((), 75, b""),
        ((GET,), 75, b""),
        ((b"G",), 10, b"408"),
        ((GET[:-2],), 10, b"408"),
        ((GET, GET[:-2]), 10, b"408"),
        ((GET + GET[:-2],), 10, b"408"),
        ((POST[:-1],), 60, b"408"),
    ],
)
def test_slow_clients(said: tuple[bytes, ...], wait: float, answer: bytes) -> None:
    rig = ServerRig(ServerLimits(idle_timeout_s=75, head_timeout_s=10, body_timeout_s=60))
    rig.answer = echo
    client = rig.client()
    client.says(*said)
    rig.loop.run()
    client.hears()
    rig.passes(wait - 0.1)
    assert client.hears() == b""
    assert not client.transport.closing
    rig.passes(0.2)
    assert client.hears()[9:12] == answer
    assert client.transport.closing == (answer == b"")


def test_each_byte_of_a_body_extends_its_time_but_none_of_the_head_does() -> None:
    rig = ServerRig(ServerLimits(head_timeout_s=10, body_timeout_s=10))
    client = rig.client()
    for byte in POST[:-3]:
        client.says(bytes([byte]))
    for byte in b"ab":
        rig.passes(9)
        client.says(bytes([byte]))
    rig.passes(9)
    assert client.hears() == b""
    other = rig.client()
    other.says(b"GET / HTTP/1.1\r\n")
    rig.passes(9)
    other.says(b"x: y\r\n")
    rig.passes(2)
    assert other.hears().startswith(b"HTTP/1.1 408 ")


def test_answering_has_no_deadline_of_the_wire() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET)
    rig.passes(100_000)
    assert not client.transport.closing
    rig.replies[0].send(200, b"", b"")
    rig.passes(74)
    assert not client.transport.closing


def test_back_pressure_reaches_the_observer() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET)
    rig.replies[0].start(200, b"")
    client.protocol.pause_writing()
    client.protocol.resume_writing()
    assert rig.watchers[0].seen == ["pause", "resume"]


def test_a_client_that_takes_nothing_is_dropped() -> None:
    rig = ServerRig(ServerLimits(write_timeout_s=60))
    client = rig.client()
    client.says(GET)
    rig.replies[0].start(200, b"", b"x" * 70_000)
    client.transport.unsent = 70_000
    client.protocol.pause_writing()
    rig.passes(59)
    client.transport.unsent = 69_000  # it took something
    rig.passes(2)
    rig.passes(59)
    assert rig.watchers[0].seen == ["pause"]
    rig.passes(2)
    assert rig.watchers[0].seen == ["pause", "left"]
    assert client.transport.aborted


def test_a_client_that_does_not_take_the_end_is_dropped_as_well() -> None:
    rig = ServerRig(ServerLimits(write_timeout_s=60))
    client = rig.client()
    client.says(GET.replace(b"Host: h", b"Host: h\r\nConnection: close"))
    rig.replies[0].send(200, b"", b"x" * 1000)
    client.transport.unsent = 1000
    assert client.transport.closing
    assert not client.transport.aborted
    rig.passes(61)
    assert client.transport.aborted


def test_the_next_request_waits_until_the_answer_is_taken() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET + GET)
    client.protocol.pause_writing()
    rig.replies[0].send(200, b"", b"x")
    rig.loop.run()
    assert len(rig.requests) == 1
    client.protocol.resume_writing()
    rig.loop.run()
    assert len(rig.requests) == 2


def test_an_answer_taken_slowly_after_its_end_is_not_a_stall() -> None:
    rig = ServerRig(ServerLimits(write_timeout_s=60))
    client = rig.client()
    client.says(GET)
    rig.replies[0].start(200, b"", b"x" * 100_000)
    client.transport.unsent = 100_000
    client.protocol.pause_writing()
    rig.replies[0].end()
    for unsent in (90_000, 80_000, 70_000):
        client.transport.unsent = unsent
        rig.passes(61)
    assert not client.transport.closing
    client.protocol.resume_writing()
    client.says(GET)
    assert len(rig.requests) == 2


def test_too_many_connections() -> None:
    rig = ServerRig(ServerLimits(connections_max=1))
    first, second = rig.client(), rig.client()
    assert second.hears() == fault(b"503 Service Unavailable", b"Too many connections.")
    assert second.transport.closing
    second.is_gone()
    assert rig.server.connections_open == 1
    first.is_gone()
    assert rig.hooks.seen == ["opened", "refused", "closed"]
    assert not rig.client().transport.closing


async def test_drain() -> None:
    rig = ServerRig()
    idle, busy, late, reading, streaming = (rig.client() for _ in range(5))
    busy.says(GET)
    streaming.says(GET)
    rig.replies[1].start(200, b"", b"x")
    streaming.hears()
    reading.says(GET[:10])
    late.says(GET)
    rig.replies[2].send(200, b"", b"")
    drained = rig.server.drain()
    assert rig.server.drain() is drained
    assert not any(client.transport.closing for client in (idle, late, reading)), "they may just be asking"
    rig.passes(rig.server.limits.parting_timeout_s)
    assert idle.transport.closing
    assert late.transport.closing
    assert not reading.transport.closing
    rig.replies[0].send(200, b"", b"")
    assert busy.hears() == OK + b"content-length: 0\r\nconnection: close\r\n\r\n"
    assert busy.transport.closing
    rig.replies[1].end(b"y")
    assert streaming.hears() == b"1\r\ny\r\n0\r\n\r\n"
    assert not streaming.transport.closing, "its head had promised to keep the connection"
    rig.passes(rig.server.limits.parting_timeout_s)
    assert streaming.transport.closing
    reading.says(GET[10:])
    rig.replies[3].send(200, b"", b"")
    assert b"connection: close" in reading.hears()
    assert not drained.done()
    for client in (idle, busy, late, reading, streaming):
        client.is_gone()
    assert drained.done()


async def test_drain_meets_a_connection_whose_answer_is_still_being_taken() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET)
    client.protocol.pause_writing()
    rig.replies[0].send(200, b"", b"x")
    rig.loop.run()
    rig.server.drain()
    assert not client.transport.closing
    client.protocol.resume_writing()
    assert not client.transport.closing
    rig.passes(rig.server.limits.parting_timeout_s)
    assert client.transport.closing


async def test_a_request_that_crosses_with_the_drain_is_answered() -> None:
    rig = ServerRig()
    idle, fresh, streaming, pipelined = (rig.client() for _ in range(4))
    idle.says(GET)
    rig.replies[0].send(200, b"", b"")
    for client in (streaming, pipelined):
        client.says(GET)
        rig.replies[-1].start(200, b"", b"x")
    pipelined.says(GET)
    drained = rig.server.drain()
    for reply in rig.replies[1:3]:
        reply.end()
    rig.loop.run()
    rig.passes(rig.server.limits.parting_timeout_s / 2)
    for client in (idle, fresh, streaming):
        client.says(GET)
    assert len(rig.replies) == 7
    for reply, client in zip(rig.replies[3:], (pipelined, idle, fresh, streaming), strict=True):
        client.hears()
        reply.send(200, b"", b"")
        assert client.hears() == OK + b"content-length: 0\r\nconnection: close\r\n\r\n"
        assert client.transport.closing
        assert not drained.done()
        client.is_gone()
    assert drained.done()


async def test_a_connection_that_comes_while_draining_does_not_stay_idle() -> None:
    rig = ServerRig()
    rig.client().says(GET)
    drained = rig.server.drain()
    late = rig.client()
    rig.passes(rig.server.limits.parting_timeout_s)
    assert late.transport.closing
    assert not drained.done()


async def test_drain_without_connections_is_done_at_once() -> None:
    assert ServerRig().server.drain().done()


def test_close_cuts_off() -> None:
    rig = ServerRig()
    client = rig.client()
    client.says(GET)
    rig.server.close()
    assert client.transport.aborted
    client.is_gone()
    assert rig.server.connections_open == 0


def test_a_peer_without_an_address() -> None:
    rig = ServerRig()
    client = rig.client()
    client.transport._extra["peername"] = ""
    client.protocol.connection_made(client.transport)
    client.says(GET)
    assert rig.requests[0].peer == ""


@settings(deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(0, 1000), max_size=12), st.booleans())
def test_law_answers_come_in_order_however_the_reads_are_cut(count: int, places: list[int], later: bool) -> None:
    data = b"".join(b"POST /%d HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\nbody" % number for number in range(count))
    rig = ServerRig()
    if not later:
        rig.answer = echo
    client = rig.client()
    ends = sorted({place % len(data) for place in places} | {len(data)})
    for start, end in zip([0, *ends], ends, strict=False):
        if end > start:
            client.says(data[start:end])
            rig.loop.run()
    if later:
        for number in range(count):
            echo(rig.requests[number], rig.replies[number])
            rig.loop.run()
    expected = b"".join(OK + b"content-length: 6\r\n\r\n/%dbody" % number for number in range(count))
    assert client.hears() == expected
