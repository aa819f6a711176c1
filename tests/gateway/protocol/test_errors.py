from __future__ import annotations

import json

import openai
import pytest

from gateway.protocol.errors import MESSAGE_CHARS_MAX, error_body, error_event, kind_of, read_error, read_error_names
from tests.gateway.protocol.recorded import body_of


def test_an_error_body_has_openais_shape() -> None:
    assert json.loads(error_body("chat", 404, "invalid_request_error", "no such model", "model", "model_not_found")) == {
        "error": {"message": "no such model", "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
    }
    assert json.loads(error_body(None, 503, None, "busy"))["error"] == {
        "message": "busy",
        "type": "server_error",
        "param": None,
        "code": None,
    }


def test_an_error_body_for_messages_has_anthropics_shape_too() -> None:
    for status, kind, there in ((404, None, "invalid_request_error"), (503, "server_error", "api_error"), (502, None, "api_error")):
        found = json.loads(error_body("messages", status, kind, "no", "model", "x"))
        assert found == {"type": "error", "error": {"message": "no", "type": there, "param": "model", "code": "x"}}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "invalid_request_error"),
        (413, "invalid_request_error"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (504, "server_error"),
    ],
)
def test_the_kind_of_a_status(status: int, kind: str) -> None:
    assert kind_of(status) == kind


def test_a_chat_stream_ends_with_the_error_and_done() -> None:
    first, second, rest = error_event("chat", "server_error", 'it "died"\n\n', code="x").split(b"\n\n")
    assert first.startswith(b'data: {"error":{')
    assert json.loads(first[6:])["error"] == {"message": 'it "died"\n\n', "type": "server_error", "param": None, "code": "x"}
    assert (second, rest) == (b"data: [DONE]", b"")
    assert error_event("completions", "server_error", "x") == error_event("chat", "server_error", "x")


def test_a_responses_stream_ends_with_its_own_error_event() -> None:
    event = error_event("responses", "server_error", "died")
    assert event.startswith(b"event: error\ndata: {")
    openai.types.responses.ResponseErrorEvent.model_validate_json(event.split(b"data: ")[1])


def test_a_messages_stream_ends_with_its_own_error_event() -> None:
    event = error_event("messages", "server_error", "died")
    assert event == b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"died"}}\n\n'


@pytest.mark.parametrize(
    ("engine", "name", "beginning"),
    [
        ("vllm", "chat_bad_json", "1 validation error"),
        ("vllm", "notfound", "Not Found"),
        ("llama-server", "chat_bad_type", "Field 'temperature'"),
        ("llama-server", "embeddings", "This server does not support embeddings"),
        ("ollama", "chat_bad_json", "invalid character 'b'"),
        ("ollama", "notfound", "404 page not found"),
    ],
)
def test_the_message_of_a_recorded_error(engine: str, name: str, beginning: str) -> None:
    assert read_error(body_of(engine, name)).startswith(beginning)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":"text"}', "text"),
        (b'{"error":{"error":{"message":"deep"}}}', "deep"),
        (b'{"detail":[{"loc":["body"],"msg":"field required"}]}', "field required"),
        (b'{"object":"error","message":"old"}', "old"),
        (b"first line\r\nsecond", "first line"),
        (b"\n\n <h1>Bad Gateway</h1>\n", "<h1>Bad Gateway</h1>"),
        (b"\xff\xfe", "��"),
        (b"", ""),
        (b" \n", ""),
        (b"null", "null"),
        (b'{"error":null}', '{"error":null}'),
        (b'{"error":{"code":5}}', '{"error":{"code":5}}'),
    ],
)
def test_the_message_of_an_error_of_any_shape(body: bytes, message: str) -> None:
    assert read_error(body) == message


@pytest.mark.parametrize("body", [b'{"error":"' + b"x" * 10_000 + b'"}', b"x" * 10_000, b"[" * 10_000])
def test_the_message_is_bounded(body: bytes) -> None:
    assert len(read_error(body)) == MESSAGE_CHARS_MAX


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"error":{"message":"m","param":"messages","code":"context_length_exceeded"}}', ("messages", "context_length_exceeded")),
        (b'{"error":{"message":"m","param":null,"code":400}}', (None, None)),
        (b'{"error":"text"}', (None, None)),
        (b'{"error":{"param":"%s"}}' % (b"x" * 500), ("x" * 100, None)),
        (b"[]", (None, None)),
        (b"not json", (None, None)),
        (b"\xff", (None, None)),
    ],
)
def test_the_names_in_a_backends_error(body: bytes, names: tuple[str | None, str | None]) -> None:
    assert read_error_names(body) == names
