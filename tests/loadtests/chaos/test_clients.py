"""What counts as whole, as an error, and as a broken promise."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from loadtests.chaos.backend import PIECES, completion, stream
from loadtests.chaos.clients import Client, Seen, judge, read_chunked
from loadtests.chaos.site import read_journal
from tests.standin import Conversation, standin


async def body_of(pieces: list[bytes]) -> bytes:
    """The payload of the backend's chunked answer."""
    reader = asyncio.StreamReader()
    reader.feed_data(b"".join(pieces).partition(b"\r\n\r\n")[2])
    reader.feed_eof()
    return await read_chunked(reader)


def seen(*, streamed: bool, status: int = 200) -> Seen:
    return Seen("t-1", streamed, status=status)


async def test_a_whole_stream_and_a_whole_answer() -> None:
    assert judge(seen(streamed=True), await body_of(stream("t-1", "n1"))) == ("whole", "n1")
    said = "".join(f"t-1 n1 {place};" for place in range(PIECES))
    assert judge(seen(streamed=False), completion(said)) == ("whole", "n1")


async def test_a_stream_that_ends_without_an_end_is_silent() -> None:
    answer = await body_of(stream("t-1", "n1"))
    without_done = answer.replace(b"data: [DONE]\n\n", b"")
    assert judge(seen(streamed=True), without_done)[0] == "silent"
    without_finish = answer.replace(b'"finish_reason":"stop"', b'"finish_reason":null')
    assert judge(seen(streamed=True), without_finish)[0] == "silent"
    error = b'data: {"error":{"message":"m","type":"server_error","code":"backend_error"}}\n\n'
    begun = answer.split(b"\n\n")[0] + b"\n\n"
    assert judge(seen(streamed=True), begun + error)[0] == "silent"
    assert judge(seen(streamed=True), begun + error + b"data: [DONE]\n\n") == ("error_in_stream", "backend_error")


async def test_bytes_of_another_request_or_generation_are_wrong() -> None:
    answer = await body_of(stream("t-1", "n1"))
    other = await body_of(stream("t-2", "n2"))
    assert judge(seen(streamed=True), other)[0] == "wrong"
    assert judge(seen(streamed=True), answer.replace(b"n1 3;", b"n2 3;"))[0] == "wrong"
    assert judge(seen(streamed=True), answer.replace(b"t-1 n1 3;", b""))[0] == "wrong"
    assert judge(seen(streamed=False), completion("t-1 n1 0;"))[0] == "wrong"


def test_an_error_has_openais_shape_or_is_garbled() -> None:
    told = b'{"error":{"message":"m","type":"server_error","param":null,"code":"backend_error"}}'
    assert judge(seen(streamed=False, status=502), told) == ("error", "502 backend_error")
    with pytest.raises(KeyError):
        judge(seen(streamed=False, status=502), b'{"detail":"no"}')


async def says(c: Conversation, data: bytes) -> None:
    await c.send(data)
    c.keep = False


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (b"", "lost"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", "lost"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", "lost"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "garbled"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nno!", "garbled"),
    ],
)
async def test_how_a_connection_ended(data: bytes, verdict: str) -> None:
    async with standin(lambda c: says(c, data)) as backend:
        client = Client("127.0.0.1", backend.port)
        found = await client.ask("t-1", True, give_up=lambda: False)
    assert found is not None
    assert (found.verdict, found.unheard) == (verdict, data == b"")


def test_a_second_generation_is_a_double_only_if_the_first_was_heard_of(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    lines = ["start a n1", "head a n1", "start b n2", "start b n3", "head b n3", "start c n4", "head c n4", "start c n5", "refuse d -"]
    path.write_text("\n".join([*lines, "start ping n6", ""]))
    found = read_journal(path)
    assert (found.tags, found.refused, found.again, found.doubled) == (frozenset("abcd"), 1, 1, 1)
