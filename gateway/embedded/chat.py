"""`/v1/chat/completions`: what was asked, and the answer streamed or whole, in the shape vLLM gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.embedded import chatml, requests
from gateway.embedded.constraint import Constraint, Written
from gateway.embedded.engine import Library
from gateway.embedded.errors import RequestError
from gateway.embedded.generation import Step
from gateway.embedded.reply import FINGERPRINT, Event, Tally, Work, data_event, fresh_id, now, usage
from gateway.embedded.tokenizer import TOOL_CALL, TOOL_CALL_END
from gateway.embedded.tools import CallText, Offer, response_grammar

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


def messages(asked: Sequence[requests.Message]) -> list[Mapping[str, Any]]:
    """Return messages ready for the prompt; raises a 400 for an unknown role, parts that are not text, malformed calls."""
    if not asked:
        raise RequestError(400, "Provide at least one message.", param="messages")
    said: list[Mapping[str, Any]] = []
    for message in asked:
        if message.role not in ROLES:
            raise RequestError(400, f"Unknown role {message.role!r}.", param="messages")
        ready: dict[str, Any] = {"role": ROLES[message.role], "content": requests.flat(message.content)}
        if message.tool_calls:
            functions = [call.get("function") for call in message.tool_calls]
            if not all(isinstance(f, dict) and isinstance(f.get("name"), str) and isinstance(f.get("arguments"), str) for f in functions):
                raise RequestError(400, "Every tool call has a function with a name and arguments.", param="messages")
            ready["tool_calls"] = message.tool_calls
        said.append(ready)
    return said


class ChatReply:
    """The answer to one chat request."""

    def __init__(self, body: bytes, library: Library, raw_logits: bool) -> None:
        """Read the request; raises a RequestError for whatever is wrong with it."""
        asked = requests.decode(body, requests.ChatRequest)
        model = library.find(asked.model)
        offer = Offer(asked.tools, asked.tool_choice)
        prompt = chatml.prompt(library.tokenizer, messages(asked.messages), offer.shown)
        wanted = asked.max_completion_tokens or asked.max_tokens
        room = requests.room(
            model.config.context, len(prompt), wanted, "max_completion_tokens" if asked.max_completion_tokens else "max_tokens"
        )
        if asked.top_logprobs and not asked.logprobs:
            raise RequestError(400, "top_logprobs needs logprobs to be true.", param="top_logprobs")
        scored = requests.scored(asked.top_logprobs or 0, "top_logprobs") if asked.logprobs else None
        sampling = requests.sampling(asked, room, scored, raw_logits, model.config.vocabulary)
        choices = asked.n or 1
        self.work = Work(model, prompt, sampling, tuple(_constraint(asked, offer, library) for _ in range(choices)))
        self.streamed = bool(asked.stream)
        self._usage_wanted = bool(asked.stream_options and asked.stream_options.include_usage)
        self._library = library
        self._offer = offer
        self._head = {"id": fresh_id("chatcmpl-"), "created": now(), "model": asked.model}
        self._tallies = [Tally() for _ in range(choices)]
        self._calls: dict[int, tuple[str, CallText]] = {}

    def begin(self) -> list[Event]:
        """Return the chunk with the role, for each choice."""
        delta = {"role": "assistant", "content": ""}
        return [self._chunk(choice, delta, None, None) for choice in range(len(self._tallies))]

    def push(self, choice: int, step: Step) -> list[Event]:
        """Return the chunk of a token."""
        tally = self._tallies[choice]
        calling = self._calls.get(choice)
        delta: dict[str, Any]
        if calling is not None:
            delta = self._call_delta(*calling, step)
        elif step.id == TOOL_CALL and self.work.constraints[choice] is not None and tally.tokens == 0:
            self._calls[choice] = (fresh_id("chatcmpl-tool-"), CallText())
            delta = {}
        else:
            delta = {"content": step.text}
        entries = tally.add(self._library.tokenizer, step)
        if step.finish is not None:
            tally.finish = self._finish(choice, step)
        if not delta and not entries and step.finish is None:
            return []
        return [self._chunk(choice, delta, entries or None, tally.finish)]

    def end(self) -> list[Event]:
        """Return the chunk with the usage, if it was asked for."""
        if not self._usage_wanted:
            return []
        return [
            {
                **self._top("chat.completion.chunk"),
                "choices": [],
                "usage": usage(self.work, self._tallies),
                "system_fingerprint": FINGERPRINT,
            }
        ]

    def whole(self) -> Event:
        """Return the answer in one piece."""
        choices = []
        for i, tally in enumerate(self._tallies):
            message: dict[str, Any] = {"role": "assistant", "content": tally.text, "refusal": None, "annotations": None}
            id_, call = self._calls.get(i, ("", CallText()))
            if call.name is not None:
                function = {"name": call.name, "arguments": call.arguments}
                message |= {"content": None, "tool_calls": [{"id": id_, "type": "function", "function": function}]}
            logprobs = {"content": tally.entries} if tally.entries else None
            choices.append({"index": i, "message": message, "logprobs": logprobs, "finish_reason": tally.finish})
        return {
            **self._top("chat.completion"),
            "choices": choices,
            "system_fingerprint": FINGERPRINT,
            "usage": usage(self.work, self._tallies),
        }

    def encode(self, event: Event) -> bytes:
        """Return the bytes of a chunk."""
        return data_event(event)

    def closing(self) -> bytes:
        """Return the end of the stream."""
        return b"data: [DONE]\n\n"

    def _call_delta(self, id_: str, call: CallText, step: Step) -> dict[str, Any]:
        named = call.name is not None
        added = "" if step.id == TOOL_CALL_END else call.push(step.text)
        if not named and call.name is not None:
            return {"tool_calls": [{"index": 0, "id": id_, "type": "function", "function": {"name": call.name, "arguments": added}}]}
        return {"tool_calls": [{"index": 0, "function": {"arguments": added}}]} if added else {}

    def _finish(self, choice: int, step: Step) -> str | None:
        called = choice in self._calls and step.finish == "stop" and not self._offer.named
        return "tool_calls" if called else step.finish

    def _top(self, kind: str) -> dict[str, Any]:
        return {"id": self._head["id"], "object": kind, "created": self._head["created"], "model": self._head["model"]}

    def _chunk(self, choice: int, delta: Mapping[str, Any], entries: list[dict[str, Any]] | None, finish: str | None) -> Event:
        logprobs = {"content": entries} if entries else None
        said = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**self._top("chat.completion.chunk"), "choices": [said]}


def _constraint(asked: requests.ChatRequest, offer: Offer, library: Library) -> Constraint | None:
    tools, wanted = offer.constraint(library), response_grammar(asked.response_format)
    if wanted is None:
        return tools
    if tools is not None:
        raise RequestError(400, "response_format and tools cannot be used together here.", param="response_format")
    return Written(wanted, library.tokenizer, library.vocabulary)
