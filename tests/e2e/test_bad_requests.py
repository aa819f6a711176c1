"""What is wrong with a request is said in OpenAI's shape, with its status, type, parameter and code; no backend hears of it."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.e2e.gateway import chat
from tests.e2e.site import KEYS, Site, raw, site
from tests.standin import Conversation, completion, fails

BODY_MAX = 64 * 1024
POLICY = """
version: 1
server: {body_max: 64KiB}
backends:
  - {name: small, kind: openai, replicas: ["SMALL"], model: tiny}
  - {name: big, kind: openai, replicas: ["BIG"], model: huge}
routes:
  - {name: main, matches: [{models: [chat]}], backend: small}
  - {name: private, matches: [{models: [private]}], backend: small}
  - {name: two, matches: [{models: [two]}], failover: [small, big]}
keys:
  - {name: acme, sha256: "${env:ACME_SHA256}", routes: [main]}
  - {name: root, sha256: "${env:ROOT_SHA256}"}
"""
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Site]:
    async with site(POLICY) as found:
        yield found


@pytest.fixture(autouse=True)
def fresh(running: Site) -> None:
    running.play()


async def post(running: Site, content: bytes, *, path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
    async with running.client("ROOT") as client:
        return await client.post(path, content=content, headers=headers)


def check(answer: httpx.Response, status: int, message: str, kind: str = "invalid_request_error", **more: str | None) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"error": {"message": message, "type": kind, "param": None, "code": None, **more}}
    assert answer.headers["x-request-id"]
    asks_for_an_exchange = status != 405 and "/v1/models" not in answer.request.url.path
    assert ("x-headgate-exchange-id" in answer.headers) == asks_for_an_exchange
    assert answer.headers["x-headgate-policy-version"]


def has_twice(name: str) -> str:
    return f"The request body has '{name}' more than once."


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (b"", "The request body is empty: a JSON object was expected.", None),
        (b"[]", "The request body must be a JSON object.", None),
        (b'"chat"', "The request body must be a JSON object.", None),
        (b'{"messages": []}', "The request body has no 'model'.", "model"),
        (b'{"model": 7}', "'model' must be a string.", "model"),
        (b'{"model": null}', "'model' must be a string.", "model"),
        (b'{"model": ""}', "'model' must have 1 to 256 characters.", "model"),
        (b'{"model": "chat", "stream": "yes"}', "'stream' must be a boolean.", "stream"),
        (b'{"model": "chat", "n": "two"}', "'n' must be an integer.", "n"),
        (b'{"model": "chat", "n": 0}', "'n' must be at least 1.", "n"),
        (b'{"model": "chat", "user": 7}', "'user' must be a string.", "user"),
        (b'{"model":"chat","model":"private"}', has_twice("model"), "model"),
        (b'{"model": "chat", "messages": [], "model": "chat"}', has_twice("model"), "model"),
        (b'{"model":"chat","mod\\u0065l":"private"}', has_twice("model"), "model"),
        (b'{"mod\\u0065l":"private","model":"chat"}', has_twice("model"), "model"),
        (b'{"model":"chat","\\u006dessages":[],"messages":[]}', has_twice("messages"), "messages"),
        (b'{"model": "chat", "user": "\xff"}', "The request body is not UTF-8 (byte 27).", None),
        (b'{"model": "\xc3"}', "The request body is not UTF-8 (byte 11).", None),
    ],
)
async def test_a_body_that_is_not_a_request(running: Site, body: bytes, message: str, param: str | None) -> None:
    check(await post(running, body), 400, message, param=param)
    assert running.small.asked == []


@pytest.mark.parametrize("body", [b"{", b'{"model": "chat"', b'{"model": "chat"} x', b"not json", b'{"model": "chat", "n": 01}', b"\x00"])
async def test_a_body_that_is_not_json(running: Site, body: bytes) -> None:
    answer = await post(running, body)
    check(answer, 400, answer.json()["error"]["message"])
    assert answer.json()["error"]["message"].startswith("The request body is not JSON: ")


def nested(opens: bytes, closes: bytes, depth: int, field: bytes = b"messages") -> bytes:
    return b'{"model": "chat", "%b": %b1%b}' % (field, opens * depth, closes * depth)


@pytest.mark.parametrize(("opens", "closes", "depth"), [(b"[", b"]", 30_000), (b'{"a":', b"}", 10_000)])
async def test_a_body_nested_without_end(running: Site, opens: bytes, closes: bytes, depth: int) -> None:
    answer = await post(running, nested(opens, closes, depth))
    check(answer, 400, "The request body is nested too deeply.")
    answer = await post(running, opens * depth)
    check(answer, 400, answer.json()["error"]["message"])
    assert running.small.asked == []


async def test_a_body_nested_about_as_deep_as_it_may_be_is_passed_on_or_refused(running: Site) -> None:
    """How deep that is, is the interpreter's business; the answer must be one of the two, whichever reader meets the end."""

    async def unread(c: Conversation) -> None:  # the stand-in's own parser would give up sooner
        await c.json(completion("hello"))

    running.play(small=unread)
    statuses = []
    async with running.client("ROOT") as client:
        for depth in (100, *range(930, 1001, 2)):
            for field in (b"messages", b"user", b"metadata"):
                answer = await client.post("/v1/chat/completions", content=nested(b"[", b"]", depth, field))
                assert answer.status_code in (200, 400), (depth, field, answer.text)
                statuses.append(answer.status_code)
    assert {200, 400} == set(statuses)


async def test_an_unknown_model_is_refused_by_its_name_and_recorded(running: Site) -> None:
    answer = await post(running, json.dumps(chat("gpt-9")).encode())
    message = "the model 'gpt-9' does not exist; see /v1/models"
    check(answer, 404, message, param="model", code="model_not_found")
    record = await running.record(answer)
    assert (record["code"], record["reason"], record["model"], record["key"], record["calls"]) == (404, "refused", "gpt-9", "root", [])
    assert record["error"] == message
    assert running.small.asked == []


@pytest.mark.key("keys[].routes")
async def test_a_key_may_use_its_routes_alone(running: Site) -> None:
    async with running.client("ACME") as client:
        refused = await client.post("/v1/chat/completions", json=chat("private"))
        check(refused, 403, "this key may not use the model 'private'", "permission_error", param="model", code="model_not_allowed")
        assert running.small.asked == []
        assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
        assert [model["id"] for model in (await client.get("/v1/models")).json()["data"]] == ["chat"]
        missing = await client.get("/v1/models/private")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    async with running.client("ROOT") as client:
        assert (await client.post("/v1/chat/completions", json=chat("private"))).status_code == 200
        assert [model["id"] for model in (await client.get("/v1/models")).json()["data"]] == ["chat", "private", "two"]


@pytest.mark.parametrize(
    ("headers", "code", "message"),
    [
        ({}, "missing_api_key", "an API key is needed: Authorization: Bearer KEY"),
        ({"authorization": "Bearer"}, "missing_api_key", "an API key is needed: Authorization: Bearer KEY"),
        ({"authorization": f"Basic {KEYS['ACME']}"}, "missing_api_key", "an API key is needed: Authorization: Bearer KEY"),
        ({"authorization": "Bearer hg-wrong"}, "invalid_api_key", "the API key is not known here"),
        ({"x-api-key": "hg-wrong"}, "invalid_api_key", "the API key is not known here"),
        ({"authorization": "Bearer hg-wrong", "x-api-key": KEYS["ACME"]}, "invalid_api_key", "the API key is not known here"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
async def test_a_missing_or_wrong_key(running: Site, path: str, headers: dict[str, str], code: str, message: str) -> None:
    async with running.client() as client:
        answer = await client.request("GET" if path == "/v1/models" else "POST", path, json=chat(), headers=headers)
    check(answer, 401, message, "authentication_error", code=code)
    assert running.small.asked == []


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_written_in_any_case(running: Site, scheme: str) -> None:
    async with running.client() as client:
        answer = await client.post("/v1/chat/completions", json=chat(), headers={"authorization": f"{scheme} {KEYS['ACME']}"})
    assert answer.status_code == 200


async def test_wrong_keys_leave_no_records(running: Site) -> None:
    """A flood of them must not push what matters out of the store."""
    async with running.client() as client:
        refused = await client.post("/v1/chat/completions", json=chat())
        served = await client.post("/v1/chat/completions", json=chat(), headers={"authorization": f"Bearer {KEYS['ACME']}"})
    await running.record(served)
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        await running.gateway.ask_admin(f"/exchanges/{refused.headers['x-headgate-exchange-id']}")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/responses", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/chat", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_not_for_this_path(running: Site, method: str, path: str, allow: str) -> None:
    async with running.client("ROOT") as client:
        answer = await client.request(method, path)
    check(answer, 405, f"{path} takes {allow.split(',')[0]}")
    assert answer.headers["allow"] == allow


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/", ""),
        ("/v1", ""),
        ("/metrics", ""),
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/chat", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/v1/../v1/models", "/v1/models"),
        ("/v1/completions/", "/v1/completions"),
        ("/V1/models", "/v1/models"),
        ("/models", "/v1/models"),
        ("/health", "/health/live"),
        ("/v1/message", "/v1/messages"),
    ],
)
async def test_a_path_that_is_not_there(running: Site, path: str, meant: str) -> None:
    async with raw(running.gateway) as client:
        await client.ask(chat(), path)
        status, headers, body = await client.answer()
    assert (status, body["error"]["code"]) == (404, "not_found")
    assert body["error"]["message"] == f"there is no {path}; " + (f'did you mean "{meant}"?' if meant else "see /v1/models")
    assert headers["x-request-id"]
    assert "x-headgate-exchange-id" not in headers


async def test_a_long_path_is_not_repeated_at_length(running: Site) -> None:
    async with running.client("ROOT") as client:
        answer = await client.get(f"/{'y' * 5000}")
    assert answer.json()["error"]["message"] == f"there is no /{'y' * 199}...; see /v1/models"


async def test_a_compressed_body(running: Site) -> None:
    packed = gzip.compress(json.dumps(chat()).encode())
    answer = await post(running, packed, **{"content-encoding": "gzip"})
    check(answer, 415, "compressed request bodies are not accepted", param="content-encoding")


async def test_state_that_one_backend_keeps_is_not_asked_of_two(running: Site) -> None:
    for name, value in (("previous_response_id", "resp_1"), ("background", True)):
        answer = await post(running, json.dumps({"model": "two", "input": "hi", name: value}).encode(), path="/v1/responses")
        check(answer, 400, f"{name} needs a route with one backend; route two has 2", param=name)


MESSAGES = "/v1/messages"


@pytest.mark.parametrize(
    ("key", "path", "change", "status", "error"),
    [
        (None, MESSAGES, {}, 401, ("authentication_error", None, "missing_api_key")),
        ("hg-wrong", MESSAGES, {}, 401, ("authentication_error", None, "invalid_api_key")),
        ("ACME", MESSAGES, {"model": "private"}, 403, ("permission_error", "model", "model_not_allowed")),
        ("ROOT", MESSAGES, {"model": "nobody"}, 404, ("invalid_request_error", "model", "model_not_found")),
        ("ROOT", MESSAGES, {"stream": "yes"}, 400, ("invalid_request_error", "stream", None)),
        ("ROOT", MESSAGES + "/count_tokens", {}, 404, ("invalid_request_error", None, "not_found")),
        ("ROOT", MESSAGES, {}, 502, ("api_error", None, "backend_error")),
        ("ROOT", MESSAGES, {"stream": True}, 502, ("api_error", None, "backend_error")),
    ],
)
async def test_who_asks_for_messages_gets_anthropics_shape_too(
    running: Site, key: str | None, path: str, change: dict[str, Any], status: int, error: tuple[str, str | None, str | None]
) -> None:
    running.play(small=fails(500))
    async with raw(running.gateway) as client:
        headers = "" if key is None else f"x-api-key: {KEYS.get(key, key)}\r\nanthropic-version: 2023-06-01\r\n"
        await client.ask({**chat(), "max_tokens": 8, **change}, path, headers)
        found, _, body = await client.answer()
    message = body["error"].pop("message")
    assert found == status
    assert message
    assert body == {"type": "error", "error": dict(zip(("type", "param", "code"), error, strict=True))}


# Below the API: refused by the wire, in OpenAI's shape whatever the path, which may not have been read.


def padded(size: int) -> bytes:
    body = json.dumps(chat()).encode()
    return body[:-1] + b" " * (size - len(body)) + b"}"


@pytest.mark.key("server.body_max")
async def test_the_largest_body_and_one_byte_more(running: Site) -> None:
    assert (await post(running, padded(BODY_MAX))).status_code == 200
    answer = await post(running, padded(BODY_MAX + 1))
    assert answer.status_code == 413
    message = f"The request's body is larger than {BODY_MAX} bytes."
    assert answer.json() == {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


@pytest.mark.key("server.body_max")
async def test_a_body_too_large_is_refused_before_it_is_read(running: Site) -> None:
    async with raw(running.gateway) as client:
        await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-length: 1000000000\r\n\r\n")
        status, headers, body = await client.answer()
        assert (status, headers["connection"]) == (413, "close")
        assert body["error"]["type"] == "invalid_request_error"
    async with raw(running.gateway) as client:
        await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(5):
            await client.send(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
        status, _, body = await client.answer()
        assert status == 413
        assert body["error"]["message"] == f"The request's body is larger than {BODY_MAX} bytes."
    await running.counted('headgate_wire_errors_total{code="413"}', at_least=2)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 0\r\n\r\n", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ntransfer-encoding: gzip\r\n\r\n", 501),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nauthorization: a\r\nauthorization: b\r\ncontent-length: 0\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nhost: g\r\nx: " + b"y" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 9_000 + b" HTTP/1.1\r\nhost: g\r\n\r\n", 414),
        (b"hello\r\n\r\n", 400),
    ],
)
async def test_what_is_not_an_http_request(running: Site, head: bytes, expected: int) -> None:
    async with raw(running.gateway) as client:
        await client.send(head)
        status, headers, body = await client.answer()
        assert status == expected
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["type"] == ("server_error" if expected >= 500 else "invalid_request_error")
        assert headers["content-type"] == "application/json"
        assert len(headers["x-request-id"]) == 24
        assert "x-headgate-exchange-id" not in headers
        assert await client.reader.read() == b"", "the connection is closed"


async def test_refusals_are_counted(running: Site) -> None:
    for _ in range(3):
        await post(running, b"x", **{"content-encoding": "br"})
    await running.counted('headgate_requests_total{code="415",reason="refused",route=""}', at_least=3)
