"""`/v1/completions`: text that goes on from a prompt, several prompts at a time if they are given."""

from __future__ import annotations

from typing import Any

from gateway.embedded import requests
from gateway.embedded.engine import Library
from gateway.embedded.errors import RequestError
from gateway.embedded.generation import Score, Step
from gateway.embedded.reply import FINGERPRINT, Event, Tally, Work, data_event, fresh_id, now, token_text, usage
from gateway.embedded.tokenizer import Tokenizer

MAX_TOKENS_DEFAULT = 16


def token_ids(prompt: requests.Texts, tokenizer: Tokenizer, param: str) -> list[list[int]]:
    """Return the ids of one or many texts, given as text or as ids. Names of special tokens are special here."""
    numbers = [] if isinstance(prompt, str) else [one for one in prompt if isinstance(one, int)]
    if numbers and len(numbers) < len(prompt):
        raise RequestError(400, f"`{param}` is either text or token ids.", param=param)
    given = [prompt] if isinstance(prompt, str) else [numbers] if numbers else prompt
    many = [tokenizer.encode(one, specials=True) if isinstance(one, str) else one for one in given if not isinstance(one, int)]
    if not many or not all(many):
        raise RequestError(400, f"`{param}` must not be empty.", param=param)
    if any(not 0 <= id_ < len(tokenizer.token_bytes) for ids in many for id_ in ids):
        raise RequestError(400, f"Token ids lie between 0 and {len(tokenizer.token_bytes) - 1}.", param=param)
    return many


class CompletionReply:
    """The answer to one completion request."""

    def __init__(self, body: bytes, library: Library, raw_logits: bool) -> None:
        """Read the request; raises a RequestError for whatever is wrong with it."""
        asked = requests.decode(body, requests.CompletionRequest)
        model = library.find(asked.model)
        prompts = token_ids(asked.prompt, library.tokenizer, "prompt")
        if len(prompts) > 1:
            raise RequestError(400, "Give one prompt a request.", param="prompt")
        if asked.echo:
            raise RequestError(400, "echo is not supported.", param="echo")
        room = requests.room(model.config.context, len(prompts[0]), asked.max_tokens or MAX_TOKENS_DEFAULT, "max_tokens")
        scored = requests.scored(asked.logprobs, "logprobs")
        sampling = requests.sampling(asked, room, scored, raw_logits, model.config.vocabulary)
        choices = asked.n or 1
        self.work = Work(model, prompts[0], sampling, (None,) * choices)
        self.streamed = bool(asked.stream)
        self._usage_wanted = bool(asked.stream_options and asked.stream_options.include_usage)
        self._tokenizer = library.tokenizer
        self._top = {"id": fresh_id("cmpl-"), "object": "text_completion", "created": now(), "model": asked.model}
        self._tallies = [Tally() for _ in range(choices)]
        self._logprobs = [_Logprobs(library.tokenizer) for _ in range(choices)]

    def begin(self) -> list[Event]:
        """Return nothing: the first token is the first chunk."""
        return []

    def push(self, choice: int, step: Step) -> list[Event]:
        """Return the chunk of a token."""
        offset = len(self._tallies[choice].text)
        self._tallies[choice].add(self._tokenizer, step)
        logprobs = self._logprobs[choice].add(step, offset)
        said = {"index": choice, "text": step.text, "logprobs": logprobs, "finish_reason": step.finish}
        return [{**self._top, "choices": [said]}]

    def end(self) -> list[Event]:
        """Return the chunk with the usage, if it was asked for."""
        if not self._usage_wanted:
            return []
        return [{**self._top, "choices": [], "usage": usage(self.work, self._tallies), "system_fingerprint": FINGERPRINT}]

    def whole(self) -> Event:
        """Return the answer in one piece."""
        choices = [
            {"index": i, "text": tally.text, "logprobs": logprobs.whole(), "finish_reason": tally.finish}
            for i, (tally, logprobs) in enumerate(zip(self._tallies, self._logprobs, strict=True))
        ]
        return {**self._top, "choices": choices, "system_fingerprint": FINGERPRINT, "usage": usage(self.work, self._tallies)}

    def encode(self, event: Event) -> bytes:
        """Return the bytes of a chunk."""
        return data_event(event)

    def closing(self) -> bytes:
        """Return the end of the stream."""
        return b"data: [DONE]\n\n"


class _Logprobs:
    """The columns in which completions have their log-probabilities."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._columns: dict[str, list[Any]] = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}

    def add(self, step: Step, offset: int) -> dict[str, Any] | None:
        """Take note of a step and return the columns of that step alone."""
        if step.score is None:
            return None
        best = list(step.alternatives)
        if step.score not in best:
            best.append(Score(*step.score))
        row = {
            "text_offset": offset,
            "token_logprobs": step.score.value,
            "tokens": token_text(self._tokenizer, step.id),
            "top_logprobs": {token_text(self._tokenizer, score.id): score.value for score in best},
        }
        for name, value in row.items():
            self._columns[name].append(value)
        return {name: [value] for name, value in row.items()}

    def whole(self) -> dict[str, Any] | None:
        """Return all columns, None if nothing was scored."""
        return self._columns if self._columns["tokens"] else None
