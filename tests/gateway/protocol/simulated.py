"""Engines that answer with or without log-probabilities, written as the recordings show that each of them writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from hypothesis import strategies as st

from policies.plan import Endpoint

Engine: TypeAlias = Literal["vllm", "llama-server", "ollama"]
Part: TypeAlias = Literal["reasoning", "content", "tool_arguments"]
ENGINES: tuple[Engine, ...] = ("vllm", "llama-server", "ollama")


@dataclass(frozen=True)
class Token:
    """One token, and the likeliest at its position: texts and log-probabilities, the likeliest first."""

    part: Part
    ranked: tuple[tuple[str, float], ...]
    rank: int

    @property
    def text(self) -> str:
        return self.ranked[self.rank][0]

    @property
    def logprob(self) -> float:
        return self.ranked[self.rank][1]


SLY = ['"},"logprobs":{', '"finish_reason"', "Straße"]
texts = st.text(max_size=5) | st.text(alphabet='"\\{}[],:\n\rl', max_size=8) | st.sampled_from(SLY)


@st.composite
def tokens(draw: st.DrawFn, parts: tuple[Part, ...] = ("reasoning", "content", "tool_arguments")) -> list[Token]:
    """Tokens of each part, in the order in which a model writes them."""
    found = []
    for part in parts:
        for _ in range(draw(st.integers(0, 4))):
            names = draw(st.lists(texts, min_size=1, max_size=6, unique=True))
            values = sorted(draw(st.lists(st.floats(-20, -0.01), min_size=len(names), max_size=len(names), unique=True)), reverse=True)
            found.append(Token(part, tuple(zip(names, values, strict=True)), draw(st.integers(0, len(names) - 1))))
    return found


END = Token("content", (("<|im_end|>", -0.25), ("more", -2.5), ("", -9999.0)), 0)


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def entry(engine: Engine, token: Token, top: int) -> dict[str, Any]:
    """A token's evidence in the shape of chat."""
    if engine == "vllm":
        listed = [token.rank, *(rank for rank in range(len(token.ranked)) if rank != token.rank)][: max(top, 0)]
    else:
        listed = list(range(len(token.ranked)))[:top]

    def one(rank: int) -> dict[str, Any]:
        text, logprob = token.ranked[rank]
        said = {"token": text, "logprob": logprob, "bytes": list(text.encode())}
        return {"id": rank, **said} if engine == "llama-server" else said

    said = one(token.rank)
    if engine != "ollama" or top:
        said["top_logprobs"] = [one(rank) for rank in listed]
    return said


def columns(said: list[Token], top: int) -> dict[str, Any]:
    """Evidence in the shape of vLLM's completions."""
    tops = []
    for token in said:
        likeliest = [token.rank, *(rank for rank in range(min(top, len(token.ranked))) if rank != token.rank)]
        tops.append({token.ranked[rank][0]: token.ranked[rank][1] for rank in likeliest})
    return {
        "text_offset": [0 for _ in said],
        "token_logprobs": [token.logprob for token in said],
        "tokens": [token.text for token in said],
        "top_logprobs": tops,
    }


def evidence_of(engine: Engine, endpoint: Endpoint, said: list[Token], top: int | None) -> Any:
    """The `logprobs` of a choice; None where there are none."""
    if top is None or not said or (endpoint == "completions" and engine == "ollama"):
        return None
    if endpoint == "completions" and engine == "vllm":
        return columns(said, top)
    return {"content": [entry(engine, token, top) for token in said]}


def choice(engine: Engine, endpoint: Endpoint, said: Any, evidence: Any, finish: str | None, index: int = 0) -> dict[str, Any]:
    """A choice with its fields in the engine's order; `said` is a delta, a message or a text."""
    if endpoint == "completions":
        if engine == "vllm":
            return {"index": index, "text": said, "logprobs": evidence, "finish_reason": finish, "stop_reason": None, "token_ids": None}
        if engine == "llama-server":
            return {"text": said, "index": index, "logprobs": evidence, "finish_reason": finish}
        return {"text": said, "index": index, "finish_reason": finish}
    name = "message" if "content" in said and finish and "role" in said else "delta"
    after = {} if evidence is None else {"logprobs": evidence}
    if engine == "vllm":
        return {"index": index, name: said, "logprobs": evidence, "finish_reason": finish, "token_ids": None}
    if engine == "llama-server":
        return {"finish_reason": finish, "index": index, name: said, **after}
    return {"index": index, name: said, "finish_reason": finish, **after}


def delta(engine: Engine, part: Part, text: str) -> dict[str, Any]:
    role = {"role": "assistant", "content": ""} if engine == "ollama" else {}
    if part == "content":
        return {**role, "content": text}
    if part == "reasoning":
        return {**role, "reasoning_content" if engine == "llama-server" else "reasoning": text}
    return {**role, "tool_calls": [{"index": 0, "function": {"arguments": text}}]}


def event(engine: Engine, made: dict[str, Any]) -> bytes:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    said = {"choices": [made], **head} if engine == "llama-server" else {**head, "choices": [made]}
    return b"data: " + compact(said) + b"\n\n"


def stream(engine: Engine, endpoint: Endpoint, said: list[Token], top: int | None, index: int = 0) -> list[bytes]:
    """The events of one choice but for `[DONE]`: role, a token each, and the end."""
    events = []
    if endpoint == "chat" and engine != "ollama":
        role = {"role": "assistant", "content": "" if engine == "vllm" else None}
        events.append(event(engine, choice(engine, endpoint, role, None, None, index)))
    for token in said:
        written = token.text if endpoint == "completions" else delta(engine, token.part, token.text)
        events.append(event(engine, choice(engine, endpoint, written, evidence_of(engine, endpoint, [token], top), None, index)))
    end = evidence_of(engine, endpoint, [END], top) if engine == "vllm" and endpoint == "chat" else None
    last: Any = "" if endpoint == "completions" else {"content": ""} if engine == "vllm" else {}
    return [*events, event(engine, choice(engine, endpoint, last, end, "stop", index))]


def whole(engine: Engine, endpoint: Endpoint, choices: list[list[Token]], top: int | None) -> bytes:
    """A reply that is not streamed."""
    made = []
    for index, said in enumerate(choices):
        end = [END] if engine == "vllm" and endpoint == "chat" else []
        joined = {part: "".join(token.text for token in said if token.part == part) for part in ("reasoning", "content", "tool_arguments")}
        message: Any = joined["content"]
        if endpoint == "chat":
            message = {"role": "assistant", "content": joined["content"]}
            if joined["reasoning"]:
                message["reasoning_content" if engine == "llama-server" else "reasoning"] = joined["reasoning"]
            if joined["tool_arguments"]:
                message["tool_calls"] = [{"id": "x", "type": "function", "function": {"name": "f", "arguments": joined["tool_arguments"]}}]
        else:
            message = "".join(token.text for token in said)
        made.append(choice(engine, endpoint, message, evidence_of(engine, endpoint, [*said, *end], top), "stop", index))
    return compact({"id": "c", "object": "x", "model": "m", "choices": made, "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
