"""What an endpoint makes of a generation: one object a request, told of every step, streamed or not."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.embedded.constraint import Constraint
from gateway.embedded.generation import Sampling, Score, Step
from gateway.embedded.model import Model
from gateway.embedded.tokenizer import Tokenizer

FINGERPRINT = "headgate-embedded"

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Work:
    """What the engine is to compute for a request: one choice for each constraint."""

    model: Model
    prompt: Sequence[int]
    sampling: Sampling
    constraints: tuple[Constraint | None, ...] = (None,)


class Reply(Protocol):
    """One endpoint's form of an answer. The events of a stream and the whole answer are made from the same steps."""

    work: Work
    streamed: bool

    def begin(self) -> list[Event]:
        """Return the events before the first token."""
        ...

    def push(self, choice: int, step: Step) -> list[Event]:
        """Take note of a step and return its events."""
        ...

    def end(self) -> list[Event]:
        """Return the events after the last token."""
        ...

    def whole(self) -> Event:
        """Return the answer in one piece."""
        ...

    def encode(self, event: Event) -> bytes:
        """Return an event's bytes in a stream."""
        ...

    def closing(self) -> bytes:
        """Return the bytes that end a stream."""
        ...


def data_event(event: Event) -> bytes:
    """Return an event as OpenAI's streams have it."""
    return b"data: " + compact(event) + b"\n\n"


def named_event(event: Event) -> bytes:
    """Return an event that also names its type, as the streams of responses and messages have it."""
    return f"event: {event['type']}\n".encode() + data_event(event)


def compact(value: object) -> bytes:
    """Return JSON without spaces, in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def fresh_id(prefix: str) -> str:
    """Return an id that nobody else has."""
    return f"{prefix}{secrets.token_hex(8)}"


def now() -> int:
    """Return the time of day in whole seconds."""
    return int(time.time())


def token_text(tokenizer: Tokenizer, id_: int) -> str:
    """Return one token as text, by itself: half a character shows as a replacement character."""
    return tokenizer.token_bytes[id_].decode("utf-8", "replace")


def token_entry(tokenizer: Tokenizer, score: Score) -> dict[str, Any]:
    """Return the entry of one token in OpenAI's log-probabilities."""
    return {"token": token_text(tokenizer, score.id), "logprob": score.value, "bytes": list(tokenizer.token_bytes[score.id])}


def step_entry(tokenizer: Tokenizer, step: Step) -> dict[str, Any] | None:
    """Return a step's entry with its alternatives; None if it was not scored."""
    if step.score is None:
        return None
    top = [token_entry(tokenizer, score) for score in step.alternatives]
    return {**token_entry(tokenizer, step.score), "top_logprobs": top}


@dataclass(slots=True)
class Tally:
    """What one choice has come to so far."""

    text: str = ""
    tokens: int = 0
    entries: list[dict[str, Any]] = field(default_factory=list)
    finish: str | None = None

    def add(self, tokenizer: Tokenizer, step: Step) -> list[dict[str, Any]]:
        """Take note of a step; returns its entries, none or one."""
        entry = step_entry(tokenizer, step)
        entries = [] if entry is None else [entry]
        self.entries += entries
        self.tokens += 1
        self.text += step.text
        self.finish = step.finish
        return entries


def usage(work: Work, tallies: Sequence[Tally]) -> dict[str, int]:
    """Return OpenAI's usage of all choices."""
    prompt, completion = len(work.prompt), sum(tally.tokens for tally in tallies)
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
