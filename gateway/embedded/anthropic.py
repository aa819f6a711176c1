"""`/v1/messages`: the Messages API, text only, streamed as typed events."""

from __future__ import annotations

from typing import Any

from gateway.embedded import chatml, requests
from gateway.embedded.chat import messages
from gateway.embedded.engine import Library
from gateway.embedded.errors import RequestError
from gateway.embedded.generation import Sampling, Step
from gateway.embedded.reply import Event, Tally, Work, fresh_id, named_event
from gateway.embedded.tokenizer import IM_END


class MessagesReply:
    """The answer to one messages request. It never carries log-probabilities, as vLLM's does not."""

    def __init__(self, body: bytes, library: Library, raw_logits: bool) -> None:
        """Read the request; raises a RequestError for whatever is wrong with it."""
        asked = requests.decode(body, requests.MessagesRequest)
        model = library.find(asked.model)
        if asked.tools:
            raise RequestError(400, "tools is not supported.", param="tools")
        system = [requests.Message("system", asked.system)] if asked.system else []
        prompt = chatml.prompt(library.tokenizer, messages([*system, *asked.messages]))
        room = requests.room(model.config.context, len(prompt), asked.max_tokens, "max_tokens")
        stop = requests.stops(asked.stop_sequences, "stop_sequences")
        temperature = 1.0 if asked.temperature is None else asked.temperature
        self.work = Work(model, prompt, Sampling(room, temperature, asked.top_p or 1.0, max(asked.top_k or 0, 0), stop=stop))
        self.streamed = bool(asked.stream)
        self._model = asked.model
        self._tokenizer = library.tokenizer
        self._id = fresh_id("msg_")
        self._tally = Tally()
        self._reason: str | None = None

    def begin(self) -> list[Event]:
        """Return the events that open the message and its one block."""
        return [
            {"type": "message_start", "message": self._message([])},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        ]

    def push(self, choice: int, step: Step) -> list[Event]:
        """Return the event of a token; a token without text has none."""
        self._tally.add(self._tokenizer, step)
        if step.finish is not None:
            self._reason = "max_tokens" if step.finish == "length" else "end_turn" if step.id == IM_END else "stop_sequence"
        if not step.text:
            return []
        return [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": step.text}}]

    def end(self) -> list[Event]:
        """Return the events that close block and message."""
        return [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": self._reason, "stop_sequence": None}, "usage": self._usage()},
            {"type": "message_stop"},
        ]

    def whole(self) -> Event:
        """Return the answer in one piece."""
        return self._message([{"type": "text", "text": self._tally.text}])

    def encode(self, event: Event) -> bytes:
        """Return the bytes of an event."""
        return named_event(event)

    def closing(self) -> bytes:
        """Return nothing: the last event ends the stream."""
        return b""

    def _usage(self) -> dict[str, int]:
        return {"input_tokens": len(self.work.prompt), "output_tokens": self._tally.tokens}

    def _message(self, content: list[Any]) -> Event:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "content": content,
            "model": self._model,
            "stop_reason": self._reason,
            "stop_sequence": None,
            "usage": self._usage(),
        }
