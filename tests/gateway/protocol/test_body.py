from __future__ import annotations

import json
import string
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ApiError
from gateway.protocol.body import FIELDS_MAX, MODEL_CHARS_MAX, Body, decode
from policies.plan import Endpoint


def chat(**fields: Any) -> Body:
    return decode(json.dumps({"model": "m", "messages": [], **fields}).encode(), "chat")


def refused(raw: bytes, endpoint: Endpoint = "chat") -> ApiError:
    with pytest.raises(ApiError) as caught:
        decode(raw, endpoint)
    assert (caught.value.status, caught.value.kind) == (400, "invalid_request_error")
    return caught.value


# What is refused


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"{bad",
        b"[]",
        b'"model"',
        b"null",
        b'{"model":"m"}x',
        b'{"model":"m",}',
        b'{"model":"m","x":NaN}',
        b'{"model":"m","x":Infinity}',
        b'{"model":"m","x":-Infinity}',
        b'{"model":"m","x":"\xff"}',
        b'{"model":"m","x":"\xed\xa0\x80"}',
        b'{"model":"m","x":"\xc0\xaf"}',
        b'{"model":"m","x\xff":1}',
        b'\xef\xbb\xbf{"model":"m"}',
        b'{"model":"m","x":"a\nb"}',
        b'{"model":"m","x":"\\x"}',
        b'{"model":"m","x":01}',
        b'{"model":"m","x":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"model":"m","x":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
        b'{"model":"\\ud800"}',
    ],
)
def test_what_is_not_a_json_object_in_utf8_is_refused(raw: bytes) -> None:
    refused(raw)


def test_too_deep_a_body_is_said_to_be() -> None:
    assert "deep" in refused(b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}").message


@pytest.mark.parametrize(("endpoint", "field"), [("chat", "stream_options"), ("messages", "metadata"), ("responses", "include")])
def test_a_field_nested_as_deeply_as_can_be_decoded_is_refused_or_read(endpoint: Endpoint, field: str) -> None:
    problems: list[ApiError] = []
    for depth in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit() + 20):
        nested = b'{"x":' * depth + b"1" + b"}" * depth
        try:
            body = decode(b'{"model":"m","stream":true,"%b":%b}' % (field.encode(), nested), endpoint)
            assert not deeper(50, lambda body=body: body.asks_logprobs)
            deeper(50, lambda body=body: body.render("other", usage=True))
        except ApiError as problem:
            problems.append(problem)
    assert problems
    assert {(each.status, each.param) for each in problems} <= {(400, field), (400, None)}


def deeper(frames: int, what: Callable[[], object]) -> object:
    """Call it from further down the stack, as the exchange does."""
    return deeper(frames - 1, what) if frames else what()


@pytest.mark.parametrize(
    ("endpoint", "fields", "param"),
    [
        ("chat", b"{}", "model"),
        ("chat", b'{"messages":[]}', "model"),
        ("chat", b'{"model":null}', "model"),
        ("chat", b'{"model":5}', "model"),
        ("chat", b'{"model":""}', "model"),
        ("chat", b'{"model":"' + b"m" * (MODEL_CHARS_MAX + 1) + b'"}', "model"),
        ("chat", b'{"model":"m","stream":"yes"}', "stream"),
        ("chat", b'{"model":"m","stream":1}', "stream"),
        ("messages", b'{"model":"m","stream":1}', "stream"),
        ("responses", b'{"model":"m","stream":[]}', "stream"),
        ("chat", b'{"model":"m","n":"2"}', "n"),
        ("chat", b'{"model":"m","n":true}', "n"),
        ("chat", b'{"model":"m","n":0}', "n"),
        ("completions", b'{"model":"m","n":-1}', "n"),
        ("chat", b'{"model":"m","stream_options":true}', "stream_options"),
        ("chat", b'{"model":"m","stream_options":{"include_usage":1}}', "stream_options"),
        ("chat", b'{"model":"m","logprobs":5}', "logprobs"),
        ("completions", b'{"model":"m","logprobs":true}', "logprobs"),
        ("chat", b'{"model":"m","top_logprobs":"3"}', "top_logprobs"),
        ("responses", b'{"model":"m","top_logprobs":1.5}', "top_logprobs"),
        ("chat", b'{"model":"m","user":7}', "user"),
        ("embeddings", b'{"model":"m","user":{}}', "user"),
        ("messages", b'{"model":"m","metadata":"x"}', "metadata"),
        ("messages", b'{"model":"m","metadata":{"user_id":1}}', "metadata"),
        ("responses", b'{"model":"m","previous_response_id":1}', "previous_response_id"),
        ("responses", b'{"model":"m","background":"yes"}', "background"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(endpoint: Endpoint, fields: bytes, param: str) -> None:
    assert refused(fields, endpoint).param == param


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","model":"a"}',
        b'{"model":"a","mod\\u0065l":"b"}',
        b'{"mod\\u0065l":"a","model":"b"}',
        b'{"model": "a", "model": "b"}',
        b'{ "model" : 1 , "model" : "b" }',
        b'{"model":"m","x":1,"x":12}',
        b'{"model":"m","x":12,"x":1}',
        b'{"model":"m","x":{"y":1},"x":{"y":1}}',
        b'{"model":"m","\xc3\xa9":1,"\\u00e9":2}',
        b'{"model":"m","\\ud83d\\ude00":1,"\xf0\x9f\x98\x80":2}',
        b'{"model":{"":1, "messages": 2}, "messages": 3, "model": "abc"}',
        b'{"model":"m"\n,\t"user":"a",\r\n"user":"b"}',
    ],
)
def test_a_repeated_field_is_refused(raw: bytes) -> None:
    assert "more than once" in refused(raw).message


def test_a_field_repeated_further_down_is_the_backends_affair() -> None:
    assert decode(b'{"model":"m","x":{"a":1,"a":2}}', "chat").model == "m"


def test_the_number_of_fields_is_bounded() -> None:
    fields = {f"f{i}": i for i in range(FIELDS_MAX)}
    assert "fields" in refused(json.dumps({"model": "m", **fields}).encode()).message


# What is read


def test_a_plain_body() -> None:
    body = chat()
    assert (body.model, body.stream, body.choices, body.user, body.include_usage) == ("m", False, 1, None, False)
    assert (body.logprobs, body.top_logprobs, body.previous_response, body.background) == (False, None, False, False)
    assert body.names == {"model", "messages"}


def test_what_the_client_asked_for() -> None:
    body = chat(stream=True, n=3, user="u", stream_options={"include_usage": True}, logprobs=True, top_logprobs=2)
    assert (body.stream, body.choices, body.user, body.include_usage) == (True, 3, "u", True)
    assert (body.logprobs, body.top_logprobs) == (True, 2)


def test_null_is_as_good_as_absent() -> None:
    body = chat(stream=None, n=None, user=None, stream_options=None, logprobs=None, top_logprobs=None)
    assert (body.stream, body.choices, body.user, body.include_usage, body.logprobs) == (False, 1, None, False, False)


def test_an_escaped_name_is_the_field_it_says() -> None:
    body = decode(b'{"mod\\u0065l":"m","str\\u0065am":true}', "chat")
    assert body.model == "m"
    assert body.stream
    assert b"".join(body.render("n", usage=True)) == b'{"mod\\u0065l":"n","str\\u0065am":true,"stream_options":{"include_usage":true}}'


def test_the_user_of_messages_is_in_its_metadata() -> None:
    body = decode(b'{"model":"m","user":5,"metadata":{"user_id":"u","x":1}}', "messages")
    assert body.user == "u"


def test_what_only_responses_have() -> None:
    body = decode(b'{"model":"m","previous_response_id":"r","background":true,"n":"not looked at"}', "responses")
    assert body.previous_response
    assert body.background
    assert not decode(b'{"model":"m","previous_response_id":null,"background":null}', "responses").previous_response


def test_embeddings_never_stream() -> None:
    assert not decode(b'{"model":"m","input":"x","stream":true}', "embeddings").stream


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [(b'"a"', 2), (b'["a","b","c"]', 6), (b"[1,2,3]", 2), (b"[[1],[2]]", 4), (b"[]", 2), (b"null", 2), (b"{}", 2)],
)
def test_each_prompt_of_a_batch_has_its_choices(prompt: bytes, choices: int) -> None:
    assert decode(b'{"model":"m","n":2,"prompt":' + prompt + b"}", "completions").choices == choices


# What is sent


def test_nothing_changes_if_nothing_must() -> None:
    raw = b'{ "model":"m" , "stream":true, "stream_options":{"include_usage":true}}'
    parts = decode(raw, "chat").render("m", usage=True)
    assert len(parts) == 1
    assert parts[0] is raw


@pytest.mark.parametrize("endpoint", ["responses", "messages", "embeddings"])
def test_usage_is_not_asked_for_where_it_comes_anyway(endpoint: Endpoint) -> None:
    raw = b'{"model":"m","stream":true}'
    assert decode(raw, endpoint).render("m", usage=True) == (raw,)


def test_usage_is_not_asked_for_without_a_stream() -> None:
    raw = b'{"model":"m","stream":false}'
    assert decode(raw, "chat").render("m", usage=True) == (raw,)


@pytest.mark.parametrize(
    ("options", "merged"),
    [
        (b"null", b'{"include_usage":true}'),
        (b"{}", b'{"include_usage":true}'),
        (b'{"include_usage":false}', b'{"include_usage":true}'),
        (b'{"include_usage":null,"x": [1, 2.50]}', b'{"include_usage":true,"x":[1, 2.50]}'),
        (b'{"x":1e400}', b'{"x":1e400,"include_usage":true}'),
    ],
)
def test_usage_is_merged_into_the_clients_own_options(options: bytes, merged: bytes) -> None:
    raw = b'{"stream_options":' + options + b',"model":"m","stream":true}\n'
    sent = b"".join(decode(raw, "chat").render("longer", usage=True))
    assert sent == b'{"stream_options":' + merged + b',"model":"longer","stream":true}\n'


def test_only_the_models_own_value_changes() -> None:
    raw = b'{"messages":[{"model":"m","content":"\\"model\\":\\"m\\""}],"model":"m","x":{"model":"m"}}'
    sent = b"".join(decode(raw, "chat").render('n"\\\x01\xe9', usage=False))
    assert sent == b'{"messages":[{"model":"m","content":"\\"model\\":\\"m\\""}],"model":"n\\"\\\\\\u0001\xc3\xa9","x":{"model":"m"}}'


def test_a_large_prompt_is_copied_once() -> None:
    prompt = "x" * 100_000
    raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": prompt}]}).encode()
    assert sum(map(len, decode(raw, "chat").render("n", usage=False))) == len(raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "a", '"', "stream"]), inner, max_size=3),
    max_leaves=8,
)
blanks = st.text(alphabet=" \t\r\n", max_size=2).map(str.encode)


def string_token(text: str, escape: bool) -> bytes:
    if not escape:
        return json.dumps(text, ensure_ascii=False).encode()
    units = text.encode("utf-16-be")
    return b'"' + b"".join(b"\\u%02x%02x" % (units[i], units[i + 1]) for i in range(0, len(units), 2)) + b'"'


@st.composite
def documents(draw: st.DrawFn) -> tuple[bytes, bytes, str, bool]:
    """A body, what it must become, its model, and whether a field is repeated."""
    others = draw(st.lists(st.text(alphabet=string.ascii_letters + '"\\é😀', max_size=4), max_size=6))
    others = [name for name in others if name not in ("n", "user", "stream")]
    names = draw(st.permutations(["model", "stream", *others]))
    style = draw(st.sampled_from(["compact", "spaced", "wild"]))
    model = draw(st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable()))
    before: list[bytes] = []
    after: list[bytes] = []

    def both(piece: bytes) -> None:
        before.append(piece)
        after.append(piece)

    def blank(spaced: bytes) -> None:
        both(draw(blanks) if style == "wild" else spaced if style == "spaced" else b"")

    both(b"{")
    for position, name in enumerate(names):
        if position:
            both(b",")
            blank(b" ")
        both(string_token(name, draw(st.booleans()) and style == "wild"))
        blank(b"")
        both(b":")
        blank(b" ")
        if name == "model":
            before.append(string_token(model, draw(st.booleans())))
            after.append(b'"other"')
        elif name == "stream":
            both(b"true")
        else:
            both(json.dumps(draw(json_values), separators=draw(st.sampled_from([(",", ":"), (", ", ": ")]))).encode())
        blank(b"")
    after.append(b',"stream_options":{"include_usage":true}')
    both(b"}" + (draw(blanks)))
    return b"".join(before), b"".join(after), model, len(set(names)) < len(names)


@settings(max_examples=600, deadline=None)
@given(documents())
def test_the_rest_of_the_body_is_untouched_byte_for_byte(document: tuple[bytes, bytes, str, bool]) -> None:
    raw, expected, model, repeated = document
    if repeated:
        refused(raw)
        return
    body = decode(raw, "chat")
    assert body.model == model
    assert set(body.names) == set(json.loads(raw))
    if model != "other":
        sent = b"".join(body.render("other", usage=True))
        assert sent == expected
        assert decode(sent, "chat").model == "other"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:model1\\u0065 \n', max_size=60).map(str.encode))
def test_whatever_arrives_is_read_or_refused(raw: bytes) -> None:
    try:
        body = decode(raw, "chat")
    except ApiError:
        return
    assert msgspec.json.decode(raw)["model"] == body.model
    assert body.prompt_chars() >= 0
    assert json.loads(b"".join(body.render("other", usage=True)))["model"] == "other"
