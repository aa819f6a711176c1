"""Ollama's /v1 over a real llama-server, as Ollama itself is built: no package ships its server. `test_ollama_standin` holds this to
recordings of the real one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.standin import Conversation, Standin

IGNORED = ("n", "logit_bias", "user", "tool_choice", "max_completion_tokens")
"""Fields that Ollama takes and does nothing with."""
TOP_LOGPROBS_MAX = 20
CREATED_AT = 1_795_168_425
ZERO_TIME = -62_135_596_800
"""Go's zero time as Unix time: what the last chunk of a dead runner has for `created`."""

Chunk = dict[str, Any]


class Ollama:
    """A running stand-in. `dies_after`: on the next stream the runner dies after so many chunks."""

    def __init__(self, runner: str, model: str) -> None:
        self.dies_after: int | None = None
        self.server = Standin(self._answer)
        self._model = model
        self._runner = httpx.AsyncClient(base_url=runner, timeout=30)

    @property
    def url(self) -> str:
        return self.server.url

    async def close(self) -> None:
        await self.server.stop()
        await self._runner.aclose()

    async def _answer(self, c: Conversation) -> None:
        model = {"id": self._model, "object": "model", "created": CREATED_AT, "owned_by": "library"}
        match c.asked.path:
            case "/":
                await _text(c, 200, "Ollama is running")
            case "/v1/models":
                await c.json({"object": "list", "data": [model | {"id": f"{self._model}:latest"}]})
            case path if path.startswith("/v1/models/"):
                name = path.removeprefix("/v1/models/")
                await (c.json(model) if name == self._model else _error(c, 404, f"model '{name}:latest' not found"))
            case "/v1/chat/completions" | "/v1/completions":
                await self._generate(c)
            case _:
                await _text(c, 404, "404 page not found")

    async def _generate(self, c: Conversation) -> None:
        chat = c.asked.path == "/v1/chat/completions"
        try:
            asked = c.asked.json
        except ValueError:
            return await _error(c, 400, "invalid character 'b' looking for beginning of object key string")
        if chat and not asked.get("messages"):
            return await _error(c, 400, "[] is too short - 'messages'")
        if (asked.get("top_logprobs") or 0) > TOP_LOGPROBS_MAX:
            return await _error(c, 400, f"top_logprobs must be between 0 and {TOP_LOGPROBS_MAX}")
        if asked.get("model") not in (self._model, f"{self._model}:latest"):
            return await _error(c, 404, f"model '{asked.get('model')}' not found")
        told = {name: value for name, value in asked.items() if name not in IGNORED}
        if not chat:
            told.pop("logprobs", None)
        if asked.get("stream"):
            return await self._stream(c, told | {"stream_options": {"include_usage": True}}, chat, _wants_usage(asked))
        answer = (await self._runner.post(c.asked.path, json=told)).json()
        choices = [_whole(choice, chat, bool(asked.get("top_logprobs"))) for choice in answer["choices"]]
        return await c.json(self._framed(answer, choices) | {"usage": _usage(answer)})

    async def _stream(self, c: Conversation, told: Chunk, chat: bool, usage: bool) -> None:
        dies_after, self.dies_after = self.dies_after, None
        translate = _chat_chunk if chat else _text_chunk
        last: Chunk = {}
        await c.start_stream()
        async with self._runner.stream("POST", c.asked.path, json=told) as reply:
            async for chunk in self._chunks(reply, translate, bool(told.get("top_logprobs"))):
                if dies_after == 0:
                    break
                dies_after = None if dies_after is None else dies_after - 1
                last = chunk
                if chunk["choices"] or usage:
                    await c.event(chunk)
        if dies_after == 0:
            dead = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            await c.event({**last, "object": "chat.completion.chunk", "created": ZERO_TIME, "model": "", "choices": [dead]})
        await c.end_stream(done=dies_after != 0)

    async def _chunks(self, reply: httpx.Response, translate: Callable[[Chunk, bool], Chunk | None], tops: bool) -> AsyncIterator[Chunk]:
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            told = json.loads(line[6:])
            choices = [choice for each in told["choices"] if (choice := translate(each, tops)) is not None]
            if choices:
                # Every chunk of completions has a usage, of nothing until the last; llama-server's last has a choice, too.
                yield self._framed(told, choices) | ({"usage": _usage({})} if translate is _text_chunk else {})
            if told.get("usage"):
                yield self._framed(told, []) | {"usage": _usage(told)}

    def _framed(self, told: Chunk, choices: list[Chunk]) -> Chunk:
        kind = told["object"].replace("text_completion.chunk", "text_completion")
        return {
            "id": "chatcmpl-1",
            "object": kind,
            "created": told["created"],
            "model": self._model,
            "system_fingerprint": "fp_ollama",
            "choices": choices,
        }


def _whole(choice: Chunk, chat: bool, tops: bool) -> Chunk:
    if not chat:
        return {"text": choice["text"], "index": 0, "finish_reason": choice["finish_reason"]}
    message = {"role": "assistant", "content": choice["message"]["content"]}
    entries = (choice.get("logprobs") or {}).get("content") or []
    if choice["finish_reason"] == "stop":
        entries = entries[:-1]  # Ollama never shows the end of the sequence
    return {"index": 0, "message": message, "finish_reason": choice["finish_reason"]} | _logprobs(entries, tops)


def _chat_chunk(choice: Chunk, tops: bool) -> Chunk | None:
    if choice["finish_reason"]:
        return {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    if not choice["delta"].get("content"):
        return None  # llama-server's first chunk has no content, Ollama's has
    delta = {"role": "assistant", "content": choice["delta"]["content"]}
    entries = (choice.get("logprobs") or {}).get("content") or []
    return {"index": 0, "delta": delta, "finish_reason": None} | _logprobs(entries, tops)


def _text_chunk(choice: Chunk, tops: bool) -> Chunk | None:
    if not choice["text"] and not choice["finish_reason"]:
        return None
    return {"text": choice["text"], "index": 0, "finish_reason": choice["finish_reason"]}


def _logprobs(entries: list[Chunk], tops: bool) -> Chunk:
    if not entries:
        return {}
    found = []
    for entry in entries:
        shown = {name: entry[name] for name in ("token", "logprob", "bytes")}
        if tops:  # llama-server sends some that nobody asked for
            shown["top_logprobs"] = [{name: top[name] for name in ("token", "logprob", "bytes")} for top in entry["top_logprobs"]]
        found.append(shown)
    return {"logprobs": {"content": found}}


def _usage(told: Chunk) -> dict[str, int]:
    return {name: (told.get("usage") or {}).get(name, 0) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}


def _wants_usage(asked: Chunk) -> bool:
    return bool((asked.get("stream_options") or {}).get("include_usage"))


async def _error(c: Conversation, status: int, message: str) -> None:
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    await c.json({"error": {"message": message, "type": kind, "param": None, "code": None}}, status)


async def _text(c: Conversation, status: int, text: str) -> None:
    await c.send(f"HTTP/1.1 {status} X\r\ncontent-type: text/plain\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())


@asynccontextmanager
async def ollama(runner: str, model: str = "specialist") -> AsyncIterator[Ollama]:
    """Ollama in front of this llama-server."""
    running = Ollama(runner, model)
    await running.server.start()
    try:
        yield running
    finally:
        await running.close()
