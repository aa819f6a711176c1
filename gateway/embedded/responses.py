"""`/v1/responses`: one answer in the newer form, streamed as typed events. Text only, nothing is kept between requests."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.embedded import chatml, requests
from gateway.embedded.chat import messages
from gateway.embedded.constraint import Written
from gateway.embedded.engine import Library
from gateway.embedded.errors import RequestError
from gateway.embedded.generation import Sampling, Step
from gateway.embedded.reply import Event, Tally, Work, fresh_id, named_event, now
from gateway.embedded.tools import response_grammar

LOGPROBS = "message.output_text.logprobs"


class ResponseReply:
    """The answer to one responses request."""

    def __init__(self, body: bytes, library: Library, raw_logits: bool) -> None:
        """Read the request; raises a RequestError for whatever is wrong with it."""
        asked = requests.decode(body, requests.ResponseRequest)
        model = library.find(asked.model)
        for name in ("previous_response_id", "background", "tools"):
            if getattr(asked, name):
                raise RequestError(400, f"{name} is not supported.", param=name)
        prompt = chatml.prompt(library.tokenizer, messages(_conversation(asked)))
        room = requests.room(model.config.context, len(prompt), asked.max_output_tokens, "max_output_tokens")
        scored = requests.scored(asked.top_logprobs or 0, "top_logprobs") if LOGPROBS in (asked.include or ()) else None
        temperature = 1.0 if asked.temperature is None else asked.temperature
        sampling = Sampling(room, temperature, asked.top_p or 1.0, scored=scored, raw_logits=raw_logits)
        wanted = response_grammar((asked.text or {}).get("format"))
        constraint = None if wanted is None else Written(wanted, library.tokenizer, library.vocabulary)
        self.work = Work(model, prompt, sampling, (constraint,))
        self.streamed = bool(asked.stream)
        self._asked = asked
        self._tokenizer = library.tokenizer
        self._id, self._item_id, self._created = fresh_id("resp_"), fresh_id("msg_"), now()
        self._tally = Tally()
        self._count = 0

    def begin(self) -> list[Event]:
        """Return the events that open the response, its one message and the message's one part."""
        started = self._response("in_progress")
        return [
            self._event("response.created", response=started),
            self._event("response.in_progress", response=started),
            self._event("response.output_item.added", output_index=0, item=self._item("in_progress", [])),
            self._event("response.content_part.added", **self._at(), part=self._part(logprobs=[])),
        ]

    def push(self, choice: int, step: Step) -> list[Event]:
        """Return the event of a token; the end of the answer has none."""
        entries = self._tally.add(self._tokenizer, step)
        if not step.text and not entries:
            return []
        return [self._event("response.output_text.delta", **self._at(), delta=step.text, logprobs=entries)]

    def end(self) -> list[Event]:
        """Return the events that close part, message and response."""
        status = self._status()
        name = "response.completed" if status == "completed" else "response.incomplete"
        return [
            self._event("response.output_text.done", **self._at(), text=self._tally.text, logprobs=self._tally.entries),
            self._event("response.content_part.done", **self._at(), part=self._part()),
            self._event("response.output_item.done", output_index=0, item=self._item(status, [self._part()])),
            self._event(name, response=self._response(status)),
        ]

    def whole(self) -> Event:
        """Return the answer in one piece."""
        return self._response(self._status())

    def encode(self, event: Event) -> bytes:
        """Return the bytes of an event."""
        return named_event(event)

    def closing(self) -> bytes:
        """Return nothing: the last event ends the stream."""
        return b""

    def _status(self) -> str:
        return "incomplete" if self._tally.finish == "length" else "completed"

    def _event(self, kind: str, **fields: Any) -> Event:
        self._count += 1
        return {"type": kind, "sequence_number": self._count - 1, **fields}

    def _at(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _part(self, logprobs: list[Any] | None = None) -> dict[str, Any]:
        scores = self._tally.entries if logprobs is None else logprobs
        return {"type": "output_text", "text": self._tally.text, "annotations": [], "logprobs": scores}

    def _item(self, status: str, content: list[Any]) -> dict[str, Any]:
        return {"id": self._item_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _response(self, status: str) -> dict[str, Any]:
        done = status != "in_progress"
        tokens = {"input_tokens": len(self.work.prompt), "output_tokens": self._tally.tokens}
        usage = {
            **tokens,
            "total_tokens": sum(tokens.values()),
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "model": self._asked.model,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": self._asked.instructions,
            "metadata": None,
            "output": [self._item(status, [self._part()])] if done else [],
            "parallel_tool_calls": True,
            "temperature": self.work.sampling.temperature,
            "tool_choice": "none",
            "tools": [],
            "top_p": self.work.sampling.top_p,
            "max_output_tokens": self._asked.max_output_tokens,
            "previous_response_id": None,
            "truncation": "disabled",
            "usage": usage if done else None,
        }


def _conversation(asked: requests.ResponseRequest) -> list[requests.Message]:
    said = [requests.Message("system", asked.instructions)] if asked.instructions else []
    if isinstance(asked.input, str):
        return [*said, requests.Message("user", asked.input)]
    try:
        return said + [msgspec.convert(item, requests.Message) for item in asked.input]
    except msgspec.ValidationError as error:
        raise RequestError(400, f"Only messages are understood as input: {error}", param="input") from error
