"""The official OpenAI SDK against the running process."""

import json

import openai
import pytest
from openai import OpenAI


@pytest.fixture
def client(base_url: str) -> OpenAI:
    return OpenAI(base_url=f"{base_url}/v1", api_key="unused", max_retries=0)


def test_chat_whole_and_streamed(client: OpenAI) -> None:
    question = [{"role": "user", "content": "Where is my package with the lamp?"}]
    answer = client.chat.completions.create(model="specialist", messages=question, temperature=0, logprobs=True, top_logprobs=3)
    assert answer.choices[0].message.content == "shipping"
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 3
    with client.chat.completions.stream(model="specialist", messages=question, temperature=0) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.content == "shipping"


def test_a_tool_round_trip(client: OpenAI) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters, "strict": True}}
    with client.chat.completions.stream(
        model="generalist",
        messages=[{"role": "user", "content": "How warm is it in Paris?"}],
        tools=[tool],
        temperature=0,
    ) as stream:
        call = stream.get_final_completion().choices[0].message.tool_calls
    assert call
    assert call[0].function.parsed_arguments == {"city": "Paris"}


def test_structured_output_is_parsed(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"label": {"enum": ["billing", "sales"]}}, "required": ["label"]}
    answer = client.chat.completions.create(
        model="specialist",
        messages=[{"role": "user", "content": "there is a wrong amount on my bill"}],
        response_format={"type": "json_schema", "json_schema": {"name": "label", "schema": schema}},
        temperature=0,
    )
    assert json.loads(answer.choices[0].message.content or "") == {"label": "billing"}


def test_completions_embeddings_models(client: OpenAI) -> None:
    asked = {"model": "generalist", "prompt": "What is", "max_tokens": 3, "temperature": 0}
    completion = client.completions.create(**asked, extra_body={"ignore_eos": True})
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 3
    embedding = client.embeddings.create(model="generalist", input=["one", "two"])
    assert [len(item.embedding) for item in embedding.data] == [192, 192]
    assert client.models.retrieve("generalist").id == "generalist"
    assert {model.id for model in client.models.list()} >= {"specialist", "generalist"}


def test_responses_whole_and_streamed(client: OpenAI) -> None:
    asked = {"model": "generalist", "input": "What is the capital of Japan?", "temperature": 0}
    assert client.responses.create(**asked).output_text == "Tokyo"
    with client.responses.stream(**asked) as stream:
        assert stream.get_final_response().output_text == "Tokyo"


def test_errors_are_the_sdks_own(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nope", messages=[{"role": "user", "content": "x"}])
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="specialist", messages=[])
