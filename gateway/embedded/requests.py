"""What the endpoint accepts: the fields it honours, typed and bounded. Other fields are ignored, as OpenAI-compatible servers do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from gateway.embedded.errors import RequestError
from gateway.embedded.generation import Sampling

TOP_LOGPROBS_MAX = 20
CHOICES_MAX = 16
STOPS_MAX = 8

Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(gt=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1)]
Text = str | list[dict[str, Any]]
"""Text, or a list of parts."""
Texts = str | list[str | int | list[int]]
"""A text, its token ids, or several of either."""

T = TypeVar("T")


class StreamOptions(Struct):
    """`stream_options`."""

    include_usage: bool | None = None


class Message(Struct):
    """One message of a chat."""

    role: str
    content: Text | None = None
    tool_calls: list[dict[str, Any]] | None = None


class Sampled(Struct, kw_only=True):
    """The fields that chat and completions have in common."""

    model: str
    max_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: int | None = None
    n: Annotated[int, Meta(ge=1, le=CHOICES_MAX)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: int | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    ignore_eos: bool | None = None


class ChatRequest(Sampled):
    """`POST /v1/chat/completions`."""

    messages: list[Message]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None


class CompletionRequest(Sampled):
    """`POST /v1/completions`."""

    prompt: Texts
    logprobs: Annotated[int, Meta(ge=0)] | None = None
    echo: bool | None = None


class EmbeddingRequest(Struct):
    """`POST /v1/embeddings`."""

    model: str
    input: Texts
    encoding_format: str | None = None
    dimensions: int | None = None


class ResponseRequest(Struct):
    """`POST /v1/responses`."""

    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    stream: bool | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Meta(ge=0)] | None = None
    text: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    previous_response_id: str | None = None
    background: bool | None = None


class MessagesRequest(Struct):
    """`POST /v1/messages`."""

    model: str
    messages: list[Message]
    max_tokens: Count
    system: Text | None = None
    stop_sequences: list[str] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Share | None = None
    top_k: int | None = None
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None


def decode(body: bytes, kind: type[T]) -> T:
    """Parse a body or raise a 400 that names the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        message = str(error)
        _, _, path = message.partition(" - at `$.")
        if not path and "missing required field" in message:
            path = message.split("`")[1]
        raise RequestError(400, message, param=path.rstrip("`") or None) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(400, f"The body is not valid JSON: {error}") from error


def flat(content: Text | None, param: str = "messages") -> str:
    """Return the text of a message; only text parts are understood."""
    if content is None or isinstance(content, str):
        return content or ""
    said = ""
    for part in content:
        text = part.get("text")
        if part.get("type") not in ("text", "input_text", "output_text") or not isinstance(text, str):
            raise RequestError(400, f"These models read text only; a part of type {part.get('type')!r} cannot be used.", param=param)
        said += text
    return said


def scored(wanted: int | None, param: str) -> int | None:
    """Return how many alternatives are asked for, or raise a 400 if they are too many."""
    if wanted is not None and wanted > TOP_LOGPROBS_MAX:
        message = f"Requested sample logprobs of {wanted}, which is greater than max allowed: {TOP_LOGPROBS_MAX}"
        raise RequestError(400, message, param=param)
    return wanted


def room(context: int, prompt: int, wanted: int | None, param: str) -> int:
    """Return how many tokens the answer may have, or raise a 400 if prompt and answer do not fit the context."""
    if prompt >= context or prompt + (wanted or 1) > context:
        message = (
            f"This model's maximum context length is {context} tokens. However, you requested {prompt + (wanted or 1)} tokens"
            f" ({prompt} in the prompt, {wanted or 1} in the answer)."
        )
        raise RequestError(400, message, param="messages" if prompt >= context else param, code="context_length_exceeded")
    return wanted or context - prompt


def sampling(asked: Sampled, max_tokens: int, scored: int | None, raw_logits: bool, vocabulary: int) -> Sampling:
    """Return how to sample for a chat or completion request."""
    return Sampling(
        max_tokens=max_tokens,
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        top_k=max(asked.top_k or 0, 0),
        seed=asked.seed,
        stop=stops(asked.stop, "stop"),
        ignore_eos=bool(asked.ignore_eos),
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        logit_bias=_biases(asked.logit_bias or {}, vocabulary),
        scored=scored,
        raw_logits=raw_logits,
    )


def stops(stop: str | Sequence[str] | None, param: str) -> tuple[str, ...]:
    """Return the stop strings, bounded in number and not empty."""
    strings = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(strings) > STOPS_MAX or "" in strings:
        raise RequestError(400, f"Give at most {STOPS_MAX} stop strings, none of them empty.", param=param)
    return strings


def _biases(asked: Mapping[str, float], vocabulary: int) -> Mapping[int, float]:
    if not all(key.isdecimal() and int(key) < vocabulary for key in asked):
        raise RequestError(400, f"logit_bias takes token ids below {vocabulary}.", param="logit_bias")
    return {int(key): bias for key, bias in asked.items()}
