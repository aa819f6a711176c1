"""Tools and structured output: whatever the model says, arguments are valid under their schema, streamed and whole."""

import json
from typing import Any

import httpx
import jsonschema
import pytest

from gateway.embedded import general
from tests.gateway.embedded.test_server import chat, stream

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
NOTE = {
    "type": "object",
    "properties": {"tags": {"type": "array", "items": {"type": "string"}}, "done": {"type": "boolean"}},
    "required": ["tags"],
}
SCHEMAS = {"get_weather": WEATHER, "add_note": NOTE}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in SCHEMAS.items()]
NAMED = {"type": "function", "function": {"name": "add_note"}}


def assembled(chunks: list[Any]) -> tuple[str, str, str]:
    """Name, arguments and finish reason of a streamed call."""
    name = arguments = finish = ""
    for chunk in chunks[:-1]:
        choice = chunk["choices"][0]
        for delta in choice["delta"].get("tool_calls", ()):
            assert delta["index"] == 0
            name += delta["function"].get("name", "")
            arguments += delta["function"]["arguments"]
        finish = choice["finish_reason"] or finish
    return name, arguments, finish


@pytest.mark.parametrize("model", ["specialist", "generalist"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("choice", "finish"), [("required", "tool_calls"), (NAMED, "stop")])
def test_a_forced_call_is_valid_whole_and_streamed(http: httpx.Client, model: str, seed: int, choice: Any, finish: str) -> None:
    asked = {"model": model, "tools": TOOLS, "tool_choice": choice, "temperature": 1.2, "seed": seed}
    whole = chat(http, **asked)["choices"][0]
    (call,) = whole["message"]["tool_calls"]
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    assert whole["message"]["content"] is None
    assert call["id"]
    jsonschema.validate(json.loads(arguments), SCHEMAS[name])
    assert choice == "required" or name == "add_note"
    assert assembled(stream(http, **asked)) == (name, arguments, finish)
    assert whole["finish_reason"] == finish


def test_arguments_come_in_several_deltas(http: httpx.Client) -> None:
    chunks = stream(http, tools=TOOLS, tool_choice=NAMED)
    deltas = [delta for chunk in chunks[:-1] for delta in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert deltas[0]["function"]["name"] == "add_note"
    assert len(deltas) > 3


TAUGHT = [general.TOOLS[name][0] for name in ("get_weather", "find_order")]
"""Tools that the generalist was trained with."""


def test_the_generalist_calls_a_tool_and_tells_what_it_said(http: httpx.Client) -> None:
    question = {"role": "user", "content": "What is the weather in Oslo?"}
    choice = chat(http, model="generalist", messages=[question], tools=TAUGHT)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("get_weather", {"city": "Oslo"})
    result = {"role": "tool", "tool_call_id": call["id"], "content": "not found"}
    answer = chat(http, model="generalist", messages=[question, choice["message"], result], tools=TAUGHT)["choices"][0]["message"]
    assert answer["content"] == "I looked it up: not found."


def test_the_generalist_chooses_among_tools(http: httpx.Client) -> None:
    """Which tool, that is: copying the number of an order is beyond a model of this size."""
    question = [{"role": "user", "content": "Where is order 350?"}]
    name, arguments, finish = assembled(stream(http, model="generalist", messages=question, tools=TAUGHT))
    assert (name, finish) == ("find_order", "tool_calls")
    assert json.loads(arguments)["order_id"].isdecimal()


def test_the_generalist_answers_by_itself_where_no_tool_helps(http: httpx.Client) -> None:
    question = [{"role": "user", "content": "What is the capital of Italy?"}]
    for choice in ("auto", "none"):
        message = chat(http, model="generalist", messages=question, tools=TAUGHT, tool_choice=choice)["choices"][0]["message"]
        assert message["content"] == "Rome"


def test_a_call_that_is_cut_says_so(http: httpx.Client) -> None:
    choice = chat(http, tools=TOOLS, tool_choice="required", max_tokens=2)["choices"][0]
    assert (choice["finish_reason"], choice["message"].get("tool_calls")) == ("length", None), "its name was not yet said"
    choice = chat(http, tools=TOOLS, tool_choice="required", max_tokens=40)["choices"][0]
    assert (choice["finish_reason"], len(choice["message"]["tool_calls"])) == ("length", 1)


@pytest.mark.parametrize("seed", range(3))
def test_structured_output_is_valid(http: httpx.Client, seed: int) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "weather", "schema": WEATHER}}
    asked = {"response_format": wanted, "temperature": 1.0, "seed": seed}
    choice = chat(http, **asked)["choices"][0]
    jsonschema.validate(json.loads(choice["message"]["content"]), WEATHER)
    assert choice["finish_reason"] == "stop"
    assert "".join(c["choices"][0]["delta"]["content"] for c in stream(http, **asked)[:-1]) == choice["message"]["content"]


def test_a_label_in_json_is_still_the_models_own(http: httpx.Client) -> None:
    labels = {"enum": ["billing", "shipping", "returns", "technical", "account", "sales"]}
    schema = {"type": "object", "properties": {"label": labels}, "required": ["label"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "label", "schema": schema}}
    assert chat(http, response_format=wanted)["choices"][0]["message"]["content"] == '{"label":"billing"}'


def test_masked_tokens_score_as_vllms_do(http: httpx.Client) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "one", "schema": {"const": True}}}
    for path in ("/v1/chat/completions", "/logits/v1/chat/completions"):
        entries = chat(http, path, response_format=wanted, logprobs=True, top_logprobs=20)["choices"][0]["logprobs"]["content"]
        assert entries[0]["top_logprobs"][-1]["logprob"] == -9999.0


def test_json_object(http: httpx.Client) -> None:
    content = chat(http, response_format={"type": "json_object"})["choices"][0]["message"]["content"]
    assert isinstance(json.loads(content), dict)


def test_a_schema_that_cannot_be_promised_is_refused(http: httpx.Client) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "pattern": "a"}}}
    response = http.post(
        "/v1/chat/completions", json={"model": "specialist", "messages": [{"role": "user", "content": "x"}], "response_format": wanted}
    )
    assert (response.status_code, response.json()["error"]["param"]) == (400, "response_format")
