from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocol.chunks import ChunkStream
from gateway.protocol.stream import EVENT_BYTES_MAX, StreamReader, Usage, open_stream
from policies.plan import Endpoint
from tests.gateway.protocol.recorded import ENGINES, STREAMS, body_of, events_of

DONE = b"data: [DONE]\n\n"


def event(fields: Any) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def chunk(delta: Any = None, finish: str | None = None, index: int = 0, **fields: Any) -> bytes:
    choice = {"index": index, "delta": {} if delta is None else delta, "finish_reason": finish}
    return event({"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **fields})


def usage(read: int = 3, written: int = 2) -> bytes:
    return event({"id": "c", "choices": [], "usage": {"prompt_tokens": read, "completion_tokens": written}})


ROLE = chunk({"role": "assistant", "content": ""})
HELLO = chunk({"content": "hello"})
STOP = chunk(finish="stop")


def chat(choices: int = 1, *, strip_usage: bool = False) -> StreamReader:
    return open_stream("chat", choices=choices, strip_usage=strip_usage)


def read(stream: bytes, **options: Any) -> tuple[StreamReader, bytes]:
    reader = chat(**options)
    out = reader.feed(stream)
    return reader, out + reader.end()


# The recordings


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("name", "endpoint"), STREAMS)
def test_a_recorded_stream_is_whole_and_untouched(engine: str, name: str, endpoint: Endpoint) -> None:
    stream = body_of(engine, name)
    reader = open_stream(endpoint, choices=1, strip_usage=False)
    assert reader.feed(stream) == stream
    assert reader.end() == b""
    assert reader.whole
    assert reader.content_seen
    assert not reader.failed
    assert reader.model == "specialist"
    assert len(reader.finish_reasons) == 1
    if endpoint in ("responses", "messages"):
        assert reader.usage is not None
        assert reader.usage.output == 2


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("name", "endpoint"), STREAMS)
@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_the_cut_of_a_recorded_stream_does_not_matter(engine: str, name: str, endpoint: Endpoint, committed: bool, size: int) -> None:
    stream = body_of(engine, name)
    whole = open_stream(endpoint, choices=1, strip_usage=True)
    expected = whole.feed(stream) + whole.end()
    reader = open_stream(endpoint, choices=1, strip_usage=True)
    if committed:
        reader.commit()
    out = b"".join(reader.feed(stream[start : start + size]) for start in range(0, len(stream), size)) + reader.end()
    assert out == expected
    assert (reader.whole, reader.usage, reader.finish_reasons) == (True, whole.usage, whole.finish_reasons)


@pytest.mark.parametrize(("engine", "expected"), [("vllm", Usage(27, 2)), ("llama-server", Usage(27, 2)), ("ollama", Usage(27, 2))])
def test_the_usage_chunk_is_counted_and_taken_out(engine: str, expected: Usage) -> None:
    events = events_of(engine, "chat_stream_usage_logprobs")
    reader, out = read(b"".join(events), strip_usage=True)
    assert out == b"".join(e for e in events if b'"choices":[]' not in e)
    assert len(out) < len(b"".join(events))
    assert reader.usage == expected


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["chat_stream", "chat_stream_usage_logprobs", "completions_stream"])
def test_a_recorded_stream_that_stops_anywhere_before_its_finish_is_not_whole(engine: str, name: str) -> None:
    endpoint: Endpoint = "completions" if name.startswith("completions") else "chat"
    events = events_of(engine, name)
    finish = next(i for i, e in enumerate(events) if b'"finish_reason":"' in e)
    for end in range(finish + 1):
        reader = open_stream(endpoint, choices=1, strip_usage=False)
        assert reader.feed(b"".join(events[:end])) == b"".join(events[:end])
        assert reader.end() == b""
        assert not reader.whole
    reader = open_stream(endpoint, choices=1, strip_usage=False)
    reader.feed(b"".join(events[: finish + 1]))
    assert reader.end() == DONE
    assert reader.whole


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["responses_stream", "messages_stream"])
def test_a_stream_of_typed_events_ends_with_the_last_type(engine: str, name: str) -> None:
    endpoint: Endpoint = "responses" if name.startswith("responses") else "messages"
    events = events_of(engine, name)
    reader = open_stream(endpoint, choices=1, strip_usage=True)
    for e in events[:-1]:
        assert reader.feed(e) is e
        assert not reader.whole
    assert reader.end() == b""
    assert not reader.whole


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["chat_stream", "completions_stream"])
def test_a_chunk_like_one_that_was_parsed_is_passed_on_as_it_is(monkeypatch: pytest.MonkeyPatch, engine: str, name: str) -> None:
    events = events_of(engine, name)
    content = next(e for e in events if b"billing" in e or b"shipping" in e)
    reader = open_stream("completions" if name.startswith("completions") else "chat", choices=1, strip_usage=True)
    for e in events[: events.index(content) + 1]:
        reader.feed(e)
    reader.commit()
    reader.feed(content)
    monkeypatch.setattr(ChunkStream, "_read", None)  # nothing is parsed from here on
    assert reader.feed(content) is content
    many = content * 16
    assert reader.feed(many) is many


# When a stream is whole


def test_a_missing_done_is_added_once_every_choice_has_finished() -> None:
    reader, out = read(ROLE + HELLO + STOP)
    assert out == ROLE + HELLO + STOP + DONE
    assert reader.whole
    assert reader.finish_reasons == ("stop",)
    assert reader.end() == b""


def test_a_stream_without_a_finish_is_not_whole() -> None:
    reader, out = read(ROLE + HELLO)
    assert out == ROLE + HELLO
    assert not reader.whole
    assert not reader.failed


def test_ollamas_silent_end_is_not_whole() -> None:
    empty = chunk({"role": "assistant", "content": ""}, model="")
    reader, out = read(HELLO + empty)
    assert out == HELLO + empty
    assert not reader.whole
    assert reader.model == "m"


def test_done_before_the_finish_breaks_the_stream_and_is_withheld() -> None:
    reader, out = read(HELLO + DONE + HELLO)
    assert out == HELLO
    assert reader.failed
    assert not reader.whole
    assert reader.broken is not None
    assert "[DONE]" in reader.broken


def test_done_alone_is_not_an_answer() -> None:
    reader, out = read(DONE)
    assert out == b""
    assert not reader.whole


def test_every_choice_must_finish() -> None:
    first, second = chunk(finish="stop", index=0), chunk(finish="length", index=1)
    reader = chat(choices=2)
    reader.feed(chunk({"content": "a"}, index=1) + first)
    assert not reader.whole
    reader.feed(second)
    assert reader.end() == DONE
    assert reader.finish_reasons == ("stop", "length")


def test_a_choice_that_never_began_is_missing_unless_the_backend_says_it_is_done() -> None:
    assert not read(HELLO + STOP, choices=2)[0].whole
    reader, out = read(HELLO + STOP + DONE, choices=2)  # Ollama ignores n
    assert reader.whole
    assert out == HELLO + STOP + DONE
    assert not read(HELLO + chunk({"content": "b"}, index=1) + STOP + DONE, choices=2)[0].whole


def test_several_choices_in_one_chunk() -> None:
    both = event({"choices": [{"index": 1, "finish_reason": "b"}, {"index": 0, "delta": {"content": "x"}, "finish_reason": "a"}]})
    assert read(both, choices=2)[0].finish_reasons == ("a", "b")


@pytest.mark.parametrize("end", [b"", b"\n", b"\r", b"\r\n"])
def test_a_last_event_that_lacks_its_blank_line_gets_it(end: bytes) -> None:
    last = STOP.rstrip()
    reader, out = read(HELLO + last + end)
    assert reader.whole
    assert out.startswith(HELLO + last + end)
    again, same = read(out)
    assert same == out
    assert again.finish_reasons == ("stop",)


def test_half_an_event_at_the_end_is_dropped() -> None:
    reader, out = read(HELLO + STOP + b"data: [DO")
    assert out == HELLO + STOP + DONE
    assert reader.whole
    reader, out = read(HELLO + STOP[:-12])
    assert out == HELLO
    assert not reader.whole


# Content


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x"},
        {"reasoning": "x"},
        {"reasoning_content": "x", "content": None},
        {"refusal": "x"},
        {"tool_calls": [{"index": 0}]},
        {"role": "assistant", "content": "x"},
    ],
)
def test_content_under_any_name_is_content(delta: Any) -> None:
    reader = chat()
    reader.feed(ROLE)
    assert not reader.content_seen
    reader.feed(chunk(delta))
    assert reader.content_seen
    assert reader.tokens == 1


@pytest.mark.parametrize("delta", [{"role": "assistant", "content": None}, {"role": "assistant", "tool_calls": []}, {}, {"content": ""}])
def test_a_role_is_no_content(delta: Any) -> None:
    reader = chat()
    reader.feed(chunk(delta))
    assert not reader.content_seen
    assert reader.tokens == 0


def test_a_finish_without_content_is_worth_judging() -> None:
    reader = chat()
    reader.feed(STOP)
    assert reader.content_seen


@pytest.mark.parametrize(("engine", "tokens"), [("vllm", 2), ("llama-server", 1), ("ollama", 1)])
def test_tokens_are_the_entries_of_the_evidence(engine: str, tokens: int) -> None:
    reader = chat()
    reader.feed(body_of(engine, "chat_stream_usage_logprobs"))
    assert reader.tokens == tokens


def test_an_event_may_hold_several_tokens() -> None:
    reader = chat()
    reader.feed(event({"choices": [{"delta": {"content": "ab"}, "logprobs": {"content": [{"token": "a"}, {"token": "b"}]}}]}))
    assert reader.tokens == 2
    reader = open_stream("completions", choices=1, strip_usage=False)
    reader.feed(event({"choices": [{"text": "ab", "logprobs": {"tokens": ["a", "b"]}}]}))
    assert reader.tokens == 2


def test_after_the_commit_tokens_are_not_counted() -> None:
    reader = chat()
    reader.feed(HELLO)
    reader.commit()
    reader.feed(HELLO)
    assert reader.tokens == 1


# Errors


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ({"error": {"message": "engine died", "type": "server_error", "code": 500}}, "engine died"),
        ({"error": "engine died"}, "engine died"),
        ({"object": "error", "message": "engine died", "code": 500}, "engine died"),
        ({"error": {"code": 500}}, "an error without a message"),
    ],
)
def test_an_error_within_a_stream_is_kept_and_not_passed_on(error: Any, message: str) -> None:
    reader, out = read(HELLO + event(error) + HELLO + DONE)
    assert out == HELLO
    assert reader.error == message
    assert reader.failed
    assert not reader.whole
    assert reader.feed(HELLO) == b""


def test_an_error_after_the_finish_still_is_one() -> None:
    reader, out = read(HELLO + STOP + event({"error": "late"}))
    assert out == HELLO + STOP
    assert not reader.whole


@pytest.mark.parametrize(
    "garbage",
    [
        b"data: {half\n\n",
        b"data: 5\n\n",
        b"data: <html>\n\n",
        b"data: \n\n",
        b'data: {"choices":5}\n\n',
        b'data: {"model":"\xff"}\n\n',
        b"data: " + b"[" * 5000 + b"\n\n",
    ],
)
def test_garbage_breaks_the_stream(garbage: bytes) -> None:
    reader, out = read(HELLO + garbage + STOP + DONE)
    assert out == HELLO
    assert reader.broken
    assert not reader.whole


def test_what_is_not_sse_never_counts_as_content() -> None:
    reader, _ = read(b"<html>\n\nsorry</html>\n\n")
    assert not reader.content_seen
    assert not reader.whole


def test_an_event_without_end_is_bounded() -> None:
    reader = chat()
    piece = b"data: " + b"x" * 1_000_000
    for _ in range(EVENT_BYTES_MAX // len(piece) + 1):
        assert reader.feed(piece) == b""
    assert reader.broken
    assert reader.feed(HELLO) == b""


def test_choices_are_bounded() -> None:
    reader = chat(choices=2)
    reader.feed(b"".join(chunk({"content": "x"}, index=i) for i in range(5000)))
    assert reader.broken


def test_embeddings_have_no_stream() -> None:
    with pytest.raises(ValueError, match="never streamed"):
        open_stream("embeddings", choices=1, strip_usage=False)


def test_chunks_that_say_nothing_of_choices_pass() -> None:
    odd = b": ping\n\n" + event({"type": "ping"}) + event({"choices": None}) + event({"choices": [], "prompt_filter_results": []})
    reader, out = read(odd + HELLO + STOP + DONE, strip_usage=True)
    assert out == odd + HELLO + STOP + DONE
    assert reader.whole


def test_usage_in_a_chunk_with_choices_is_counted_and_stays() -> None:
    last = chunk(finish="stop", usage={"prompt_tokens": 1, "completion_tokens": 2})
    reader, out = read(HELLO + last + DONE, strip_usage=True)
    assert out == HELLO + last + DONE
    assert reader.usage == Usage(1, 2)


# Events that look like ordinary ones


def committed() -> StreamReader:
    reader = chat(strip_usage=True)
    reader.feed(ROLE)
    reader.commit()
    reader.feed(HELLO)
    return reader


@pytest.mark.parametrize(
    ("odd", "passed"),
    [
        (event({"error": "x", "choices": [{"finish_reason": None}]}), False),
        (HELLO[:-2] + b"\n" + b'data: {"error":"x","choices":[{"index":0,"finish_reason":null}]}\n\n', False),
        (HELLO + event({"error": "x"}) + HELLO, False),
        (HELLO.replace(b"\n\n", b"\r\r") + event({"error": "x"}).replace(b"\n\n", b"\r\r") + HELLO, False),
    ],
)
def test_an_error_among_ordinary_chunks_is_found(odd: bytes, passed: bool) -> None:
    reader = committed()
    assert b'"error"' not in reader.feed(odd)
    assert reader.failed


def test_a_finish_and_usage_among_ordinary_chunks_are_found() -> None:
    reader = committed()
    assert reader.feed(HELLO + STOP + usage() + HELLO) == HELLO + STOP + HELLO
    assert reader.whole
    assert reader.usage == Usage(3, 2)


def test_a_finish_as_long_as_null_is_found() -> None:
    reader = committed()
    last = chunk(finish="xx", delta={"content": "hello"})
    assert len(last) == len(HELLO)
    assert reader.feed(HELLO + last) == HELLO + last
    assert reader.finish_reasons == ("xx",)


def test_a_chunk_after_half_a_line_is_not_a_chunk() -> None:
    reader = committed()
    assert reader.feed(HELLO + b"data: {") == HELLO
    assert reader.feed(HELLO) == b""
    assert reader.broken


@pytest.mark.parametrize("escapes", [b"\\ud83d", b"\\ud83d x", b"\\q", b"\\u12", b"\\"])
def test_escapes_that_are_no_text_are_left_to_the_parser(escapes: bytes) -> None:
    reader = committed()
    assert reader.feed(HELLO.replace(b"hello", escapes)) == b""
    assert reader.broken


def test_a_line_end_goes_with_the_event_it_follows() -> None:
    reader = committed()
    cut = usage().replace(b"\n", b"\r\n")
    assert reader.feed(cut[:-1]) == b""
    assert reader.feed(b"\n") == b""
    assert reader.feed(HELLO) == HELLO
    assert reader.feed(b"\n") == b"\n"


def test_a_byte_order_mark_is_one_only_at_the_start() -> None:
    mark = b"\xef\xbb\xbf"
    reader, out = read(mark + HELLO + mark + b"data: a field of another name\n\n" + STOP + DONE)
    assert not reader.failed
    assert reader.content_seen
    assert out == mark + HELLO + mark + b"data: a field of another name\n\n" + STOP + DONE


def test_text_that_looks_like_json_is_only_text() -> None:
    reader = committed()
    for text in ('","finish_reason":"stop"}]}\n\ndata: [DONE]\n\n', ',"finish_reason":null}]}\\', '"choices":[{', "\r\n\r\n"):
        sly = chunk({"content": text})
        assert reader.feed(sly) == sly
    assert not reader.finish_reasons
    assert not reader.failed


@settings(max_examples=500, deadline=None)
@given(st.lists(st.text(max_size=6) | st.text(alphabet='"\\/bfnrtu{}[]0d8c,:\n\r', max_size=10), min_size=1, max_size=6), st.booleans())
def test_only_what_the_parser_would_take_goes_unparsed(texts: list[str], escaped: bool) -> None:
    """Raw text within the quotes, well escaped or not."""
    before, after = HELLO.split(b"hello")
    for text in texts:
        inner = (json.dumps(text)[1:-1] if escaped else text).encode(errors="replace")
        sent = before + inner + after
        reader = committed()
        passed = reader.feed(sent) == sent and not reader.failed
        parsed = chat(strip_usage=True)
        parsed.feed(HELLO)
        assert passed == (parsed.feed(sent) == sent and not parsed.failed)


def test_a_stream_whose_chunks_change_every_second_is_learned_again() -> None:
    reader = chat()
    reader.commit()
    for second in range(300):
        ordinary = chunk({"content": "x"}, created=second)
        assert reader.feed(ordinary) is ordinary
        assert reader.feed(ordinary) is ordinary
    reader.feed(STOP + DONE)
    assert reader.whole


# Responses and messages


def typed(*events: dict[str, Any]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ({"type": "response.failed", "response": {"error": {"code": "server_error", "message": "died"}}}, "died"),
        ({"type": "response.failed"}, "an error without a message"),
        ({"type": "error", "message": "died", "code": "x"}, "died"),
        ({"type": "x", "error": {"message": "died"}}, "died"),
    ],
)
def test_a_response_that_failed_is_an_error(last: dict[str, Any], message: str) -> None:
    delta = typed({"type": "response.output_text.delta", "delta": "x"})
    reader = open_stream("responses", choices=1, strip_usage=True)
    assert reader.feed(delta + typed(last)) == delta
    assert reader.error == message
    assert not reader.whole


def test_a_response_that_was_cut_short_is_whole() -> None:
    reader = open_stream("responses", choices=1, strip_usage=True)
    reader.feed(typed({"type": "response.created", "response": {"model": "m"}}))
    assert not reader.content_seen
    reader.feed(typed({"type": "response.reasoning_text.delta", "delta": "x"}))
    assert (reader.content_seen, reader.tokens) == (True, 1)
    details = {"reason": "max_output_tokens"}
    reader.feed(typed({"type": "response.incomplete", "response": {"incomplete_details": details, "usage": {"input_tokens": 1}}}) + DONE)
    assert reader.whole
    assert reader.finish_reasons == ("max_output_tokens",)
    assert reader.usage == Usage(1, 0)
    assert reader.end() == b""


def test_messages_count_what_came_from_the_cache() -> None:
    reader = open_stream("messages", choices=1, strip_usage=True)
    start = {"model": "m", "usage": {"input_tokens": 1, "cache_read_input_tokens": 26, "output_tokens": 0}}
    reader.feed(typed({"type": "message_start", "message": start}))
    assert not reader.content_seen
    reader.feed(typed({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}}))
    assert reader.content_seen
    reader.feed(typed({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}))
    assert reader.usage == Usage(27, 2)
    assert not reader.whole
    reader.feed(typed({"type": "message_stop"}))
    assert reader.whole
    assert reader.finish_reasons == ("end_turn",)


def test_an_error_in_messages() -> None:
    reader = open_stream("messages", choices=1, strip_usage=True)
    assert reader.feed(typed({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}})) == b""
    assert reader.error == "busy"


@pytest.mark.parametrize("endpoint", ["responses", "messages"])
def test_garbage_breaks_typed_streams_too(endpoint: Endpoint) -> None:
    reader = open_stream(endpoint, choices=1, strip_usage=True)
    assert reader.feed(b"data: nonsense\n\n") == b""
    assert reader.broken


# Laws

ORDINARY = [HELLO, chunk({"content": 'é😀\n\r"}]}'}), chunk({"content": "x"}, system_fingerprint="f"), chunk({"role": "assistant"})]
EVENTS = [
    *[(e, e) for e in ORDINARY],
    *[(e, e) for e in ORDINARY],
    (STOP, STOP),
    (usage(), b""),
    (b": comment\n\n", b": comment\n\n"),
    (b"event: x\ndata: {\ndata: }\n\n", b"event: x\ndata: {\ndata: }\n\n"),
]


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A good stream and what the client must get of it."""
    line_end = draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\r", None]))

    def ended(text: bytes) -> bytes:
        pieces = text.split(b"\n")
        ends = [line_end or draw(st.sampled_from([b"\n", b"\r\n", b"\r"])) for _ in pieces[1:]]
        for i in range(1, len(ends)):
            if ends[i - 1] == b"\r" and not pieces[i] and ends[i] == b"\n":
                ends[i] = b"\r"  # the two would be one CRLF
        return b"".join(piece + end for piece, end in zip(pieces, [*ends, b""], strict=True))

    chosen = draw(st.lists(st.sampled_from(EVENTS), max_size=12))
    finished = any(sent is STOP for sent, _ in chosen)
    done = finished and draw(st.booleans())
    marked = bool(chosen) and chosen[0][1] != b"" and draw(st.booleans())  # it would go with an event that is taken out
    sent = got = b"\xef\xbb\xbf" if marked else b""
    for original, passed in [*chosen, *([(DONE, DONE)] if done else [])]:
        written = ended(original)
        sent += written
        got += written if passed else b""
    return sent, got + (DONE if finished and not done else b"")


@settings(max_examples=800, deadline=None)
@given(streams(), st.lists(st.integers(0, 2000), max_size=12), st.integers(0, 12), st.integers(1, 2))
def test_the_client_gets_what_the_backend_sent(pair: tuple[bytes, bytes], cuts: list[int], commit_at: int, choices: int) -> None:
    sent, expected = pair
    reader = chat(choices=1, strip_usage=True)
    edges = [0, *sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
    out = b""
    for number, (a, b) in enumerate(pairwise(edges)):
        if number == commit_at:
            reader.commit()
        out += reader.feed(sent[a:b])
    out += reader.end()
    assert out == expected
    assert not reader.failed


hostile = st.lists(
    st.sampled_from(
        [HELLO, HELLO, STOP, DONE, usage(), event({"error": "x"}), b"data: {", b"}\n\n", b"\n", b"\r", b"\r\n", b"\xff", HELLO[:-2]]
    ),
    max_size=14,
).map(b"".join)


@settings(max_examples=800, deadline=None)
@given(hostile, st.lists(st.integers(0, 1500), max_size=12), st.integers(0, 12), st.integers(1, 2))
def test_whatever_is_sent_the_cut_and_the_commit_do_not_matter(stream: bytes, cuts: list[int], commit_at: int, choices: int) -> None:
    whole = chat(choices=choices, strip_usage=True)
    expected = whole.feed(stream) + whole.end()
    reader = chat(choices=choices, strip_usage=True)
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    out = b""
    for number, (a, b) in enumerate(pairwise(edges)):
        if number == commit_at:
            reader.commit()
        out += reader.feed(stream[a:b])
    out += reader.end()
    assert out == expected
    assert (reader.whole, reader.broken, reader.error, reader.usage) == (whole.whole, whole.broken, whole.error, whole.usage)
    assert reader.finish_reasons == whole.finish_reasons
