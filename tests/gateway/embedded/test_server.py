"""The endpoint over real sockets: shapes, streams, errors, cancelling."""

import base64
import json
import math
import socket
import time
from contextlib import ExitStack
from typing import Any

import httpx
import numpy as np
import pytest

from gateway.embedded import weights
from policies.check_backends import EMBEDDED_MODELS

TICKET = [{"role": "user", "content": "I was charged twice for the lamp. Please help"}]
REPLY = [{"role": "user", "content": "Write a reply: I was charged twice for the lamp."}]
CHAT = {"model": "specialist", "messages": TICKET, "temperature": 0}


def events(response: httpx.Response) -> list[Any]:
    """The data of a stream's events, `[DONE]` as text."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def chat(http: httpx.Client, path: str = "/v1/chat/completions", **fields: Any) -> Any:
    response = http.post(path, json={**CHAT, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def stream(http: httpx.Client, path: str = "/v1/chat/completions", **fields: Any) -> list[Any]:
    response = http.post(path, json={**CHAT, **fields, "stream": True})
    assert response.status_code == 200, response.text
    return events(response)


def test_a_ticket_gets_its_label(http: httpx.Client) -> None:
    answer = chat(http)
    assert answer["choices"][0]["message"]["content"] == "billing"
    assert answer["choices"][0]["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] == 2


def test_a_stream_is_shaped_like_vllms(http: httpx.Client) -> None:
    role, *content, last, usage, done = stream(http, logprobs=True, top_logprobs=2, stream_options={"include_usage": True})
    assert role["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in content) == "billing"
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["choices"][0]["delta"] == {"content": ""}
    assert last["choices"][0]["logprobs"]["content"][0]["token"] == "<|im_end|>"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(content) + 1
    assert done == "[DONE]"


def test_streamed_is_whole(http: httpx.Client) -> None:
    wanted = {"messages": REPLY, "logprobs": True, "top_logprobs": 3}
    whole, chunks = chat(http, **wanted)["choices"][0], stream(http, **wanted)[:-1]
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    entries = [entry for chunk in chunks for entry in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert said == whole["message"]["content"]
    assert len(said) > 40
    assert entries == whole["logprobs"]["content"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == whole["finish_reason"] == "stop"


def test_characters_of_many_bytes_are_streamed_whole(http: httpx.Client) -> None:
    asked = {"model": "generalist", "messages": [{"role": "user", "content": "Say hello in Russian"}]}
    said = [chunk["choices"][0]["delta"]["content"] for chunk in stream(http, **asked)[:-1]]
    assert "".join(said) == "Здравствуйте"
    assert not any("\ufffd" in piece for piece in said)


def test_logprobs_without_alternatives_and_at_most_20(http: httpx.Client) -> None:
    entries = chat(http, logprobs=True)["choices"][0]["logprobs"]["content"]
    assert [entry["top_logprobs"] for entry in entries] == [[], []]
    assert bytes(entries[0]["bytes"]).decode() == entries[0]["token"]
    entries = chat(http, logprobs=True, top_logprobs=20)["choices"][0]["logprobs"]["content"]
    values = [entry["logprob"] for entry in entries[0]["top_logprobs"]]
    assert len(values) == 20
    assert values == sorted(values, reverse=True)
    assert 0.9 < sum(map(math.exp, values)) <= 1.0000001


def test_the_logits_path_gives_logits_of_the_same_tokens(http: httpx.Client) -> None:
    wanted = {"logprobs": True, "top_logprobs": 20}
    normal = chat(http, **wanted)["choices"][0]["logprobs"]["content"]
    logits = chat(http, "/logits/v1/chat/completions", **wanted)["choices"][0]["logprobs"]["content"]
    for entry, raw in zip(normal, logits, strict=True):
        assert raw["logprob"] > 1
        shifts = [r["logprob"] - e["logprob"] for e, r in zip(entry["top_logprobs"], raw["top_logprobs"], strict=True)]
        assert max(shifts) - min(shifts) < 1e-5, "logits and log-probabilities differ by their logsumexp alone"
        assert math.log(sum(math.exp(r["logprob"]) for r in raw["top_logprobs"])) <= shifts[0] + 1e-6


def test_choices_have_one_prompt_and_indices_of_their_own(http: httpx.Client) -> None:
    hot = {"n": 3, "temperature": 1.9, "seed": 2, "messages": REPLY, "max_tokens": 12}
    answer = chat(http, **hot)
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len(set(texts)) > 1
    streamed = ["", "", ""]
    finishes = []
    for chunk in stream(http, **hot)[:-1]:
        choice = chunk["choices"][0]
        streamed[choice["index"]] += choice["delta"].get("content", "")
        finishes += [choice["index"]] if choice["finish_reason"] else []
    assert streamed == texts
    assert sorted(finishes) == [0, 1, 2]


def test_stop_and_length(http: httpx.Client) -> None:
    whole = chat(http, messages=REPLY)["choices"][0]["message"]["content"]
    cut = chat(http, messages=REPLY, stop=[whole[10:16]])["choices"][0]
    assert (cut["message"]["content"], cut["finish_reason"]) == (whole[:10], "stop")
    short = chat(http, messages=REPLY, max_completion_tokens=3)
    assert (short["choices"][0]["finish_reason"], short["usage"]["completion_tokens"]) == ("length", 3)


def test_parts_of_text_are_joined(http: httpx.Client) -> None:
    parts = [{"type": "text", "text": "I was charged twice"}, {"type": "text", "text": " for the lamp. Please help"}]
    assert chat(http, messages=[{"role": "user", "content": parts}])["usage"] == chat(http)["usage"]


def test_completions(http: httpx.Client) -> None:
    asked = {"model": "specialist", "prompt": "where is", "temperature": 0, "max_tokens": 4, "logprobs": 2}
    answer = http.post("/v1/completions", json=asked).json()
    choice = answer["choices"][0]
    assert choice["text"] == "".join(choice["logprobs"]["tokens"])
    assert choice["logprobs"]["text_offset"] == [0, *np.cumsum([len(token) for token in choice["logprobs"]["tokens"]])[:-1]]
    chunks = events(http.post("/v1/completions", json={**asked, "stream": True}))
    assert chunks.pop() == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == choice["text"]
    assert [chunk["choices"][0]["logprobs"]["token_logprobs"][0] for chunk in chunks] == choice["logprobs"]["token_logprobs"]
    ids = http.post("/v1/completions", json={**asked, "prompt": [300, 301]}).json()
    assert ids["usage"]["prompt_tokens"] == 2


def test_responses(http: httpx.Client) -> None:
    asked = {"model": "specialist", "input": TICKET[0]["content"], "temperature": 0, "include": ["message.output_text.logprobs"]}
    answer = http.post("/v1/responses", json=asked).json()
    part = answer["output"][0]["content"][0]
    assert (answer["status"], part["text"]) == ("completed", "billing")
    assert len(part["logprobs"]) == answer["usage"]["output_tokens"] == 2
    response = http.post("/v1/responses", json={**asked, "stream": True})
    found = events(response)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert [line.removeprefix("event: ") for line in response.text.splitlines() if line.startswith("event")] == [e["type"] for e in found]
    assert "".join(event["delta"] for event in found if event["type"] == "response.output_text.delta") == "billing"
    assert found[-1]["type"] == "response.completed"
    assert found[-1]["response"]["output"][0]["content"] == answer["output"][0]["content"]
    cut = http.post("/v1/responses", json={**asked, "max_output_tokens": 1}).json()
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


def test_messages(http: httpx.Client) -> None:
    asked = {"model": "specialist", "messages": TICKET, "max_tokens": 20, "temperature": 0}
    answer = http.post("/v1/messages", json=asked).json()
    assert answer["content"] == [{"type": "text", "text": "billing"}]
    assert answer["stop_reason"] == "end_turn"
    found = events(http.post("/v1/messages", json={**asked, "stream": True}))
    assert [event["type"] for event in found][:2] == ["message_start", "content_block_start"]
    assert "".join(event["delta"]["text"] for event in found if event["type"] == "content_block_delta") == "billing"
    assert found[-2]["usage"] == answer["usage"]
    assert found[-1] == {"type": "message_stop"}
    assert http.post("/v1/messages", json={**asked, "max_tokens": 1}).json()["stop_reason"] == "max_tokens"
    stopped = http.post("/v1/messages", json={**asked, "stop_sequences": ["ling"]}).json()
    assert (stopped["content"][0]["text"], stopped["stop_reason"]) == ("bil", "stop_sequence")


def test_embeddings_are_unit_vectors_and_like_texts_are_near(http: httpx.Client) -> None:
    texts = ["my parcel is late", "my package is late", "how much does the lamp cost"]
    answer = http.post("/v1/embeddings", json={"model": "specialist", "input": texts}).json()
    vectors = np.array([item["embedding"] for item in answer["data"]])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    coded = http.post("/v1/embeddings", json={"model": "specialist", "input": texts[0], "encoding_format": "base64"}).json()
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4"), vectors[0], atol=1e-6)


def test_models(http: httpx.Client) -> None:
    names = {model["id"] for model in http.get("/v1/models").json()["data"]}
    assert names == set(EMBEDDED_MODELS) == set(weights.card()), "what a policy may name is what is there"
    assert http.get("/v1/models/specialist").json()["max_model_len"] == 2048
    assert http.get("/logits/v1/models").json()["object"] == "list"
    assert http.get("/v1/models/nope").status_code == 404


WRONG = [
    ({"model": "nope"}, 404, "model", "model_not_found"),
    ({"messages": []}, 400, "messages", None),
    ({"messages": "hello"}, 400, "messages", None),
    ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages", None),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]}, 400, "messages", None),
    ({"messages": [{"role": "user", "content": "a b " * 2000}]}, 400, "messages", "context_length_exceeded"),
    ({"max_tokens": 99_999}, 400, "max_tokens", "context_length_exceeded"),
    ({"max_tokens": 0}, 400, "max_tokens", None),
    ({"temperature": "hot"}, 400, "temperature", None),
    ({"temperature": 3}, 400, "temperature", None),
    ({"top_p": 0}, 400, "top_p", None),
    ({"n": 1000}, 400, "n", None),
    ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", None),
    ({"top_logprobs": 2}, 400, "top_logprobs", None),
    ({"logit_bias": {"5000": 1}}, 400, "logit_bias", None),
    ({"stop": [""]}, 400, "stop", None),
    ({"response_format": {"type": "xml"}}, 400, "response_format", None),
    ({"tools": [{"type": "function"}]}, 400, "tools", None),
    ({"tool_choice": "required"}, 400, "tool_choice", None),
]


@pytest.mark.parametrize(("fields", "status", "param", "code"), WRONG)
@pytest.mark.parametrize("streamed", [False, True])
def test_wrong_requests(http: httpx.Client, fields: Any, status: int, param: str, code: str | None, streamed: bool) -> None:
    response = http.post("/v1/chat/completions", json={**CHAT, "stream": streamed, **fields})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code)
    assert error["type"] == "invalid_request_error"
    assert error["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("completions", {"prompt": ""}, "prompt"),
        ("completions", {"prompt": [99_999]}, "prompt"),
        ("completions", {"prompt": ["a", "b"]}, "prompt"),
        ("completions", {"prompt": ["a", 1]}, "prompt"),
        ("embeddings", {"input": []}, "input"),
        ("embeddings", {"input": "a", "dimensions": 7}, "dimensions"),
        ("embeddings", {"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ("responses", {"input": "a", "previous_response_id": "resp_1"}, "previous_response_id"),
        ("responses", {"input": [{"type": "function_call_output"}]}, "input"),
    ],
)
def test_wrong_requests_elsewhere(http: httpx.Client, path: str, body: Any, param: str) -> None:
    response = http.post(f"/v1/{path}", json={"model": "specialist", **body})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": "\xff"}', b"null"])
def test_bodies_that_are_no_request(http: httpx.Client, body: bytes) -> None:
    response = http.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_errors_of_messages_have_its_own_shape(http: httpx.Client) -> None:
    response = http.post("/v1/messages", json={"model": "nope", "messages": TICKET, "max_tokens": 5})
    assert (response.status_code, response.json()["type"], response.json()["error"]["type"]) == (404, "error", "not_found_error")


def test_other_paths_methods_and_sizes(http: httpx.Client) -> None:
    assert http.get("/v1/nothing").json()["error"]["type"] == "invalid_request_error"
    assert http.get("/v1/chat/completions").status_code == 405
    assert http.post("/v1/chat/completions", content=b" " * (5 * 1024 * 1024)).status_code == 413


def running(http: httpx.Client) -> int:
    return int(http.get("/load").json()["server_load"])


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_stops_its_generation(base_url: str, http: httpx.Client, streamed: bool) -> None:
    body = json.dumps({**CHAT, "stream": streamed, "n": 16, "ignore_eos": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    client = socket.create_connection(("127.0.0.1", httpx.URL(base_url).port or 0))
    client.sendall(head + body)
    if streamed:
        assert client.recv(16) == b"HTTP/1.1 200 OK\r"
    while running(http) != 16:
        time.sleep(0.01)
    client.close()
    left = time.monotonic()
    while running(http):
        assert time.monotonic() < left + 3, "16 x 2,000 tokens would take many seconds"
        time.sleep(0.01)


def test_short_answers_are_not_kept_waiting_by_long_ones(base_url: str, http: httpx.Client) -> None:
    long = {**CHAT, "stream": True, "n": 16, "ignore_eos": True}
    with httpx.stream("POST", f"{base_url}/v1/chat/completions", json=long, timeout=30) as response:
        pieces = response.iter_raw()
        assert next(pieces)
        assert chat(http)["choices"][0]["message"]["content"] == "billing"
        assert running(http) == 16


def test_too_many_generations_are_refused(base_url: str, http: httpx.Client) -> None:
    long = {**CHAT, "stream": True, "n": 16, "ignore_eos": True}
    with ExitStack() as stack:
        for _ in range(4):
            opened = stack.enter_context(httpx.stream("POST", f"{base_url}/v1/chat/completions", json=long, timeout=30))
            assert opened.status_code == 200
        refused = http.post("/v1/chat/completions", json=CHAT)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["type"] == "server_error"
    while running(http):
        time.sleep(0.01)
    assert chat(http)["choices"][0]["message"]["content"] == "billing"
