"""What is asked of the models in `loadtests.engines`, by OpenAI's client, streamed; and the lines that a calibration is made from."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import openai

from gateway.embedded import corpus, fit

WORKLOAD_SEED = 31
TICKETS = 0.6
"""Their share of the workload. The rest is of tasks that the specialist was not trained for, of each as much."""
FOREIGN = tuple(task for task in fit.FOREIGN if task != "tools")
"""Without questions for tools: each engine reads calls out of a model's text in a way of its own."""
CLIENTS = 8
"""Requests under way at once."""

T = TypeVar("T")


class Reply(NamedTuple):
    """What a client got for one request."""

    task: str
    right: bool
    backend: str
    reason: str
    leaked: bool = False
    """It had log-probabilities, which the client did not ask for."""
    failed: str = ""
    """Why there is no whole answer."""


class Evidenced(NamedTuple):
    """An answer with its evidence, token by token as it was streamed."""

    text: str
    logprobs: Sequence[float]
    top_logprobs: Sequence[Sequence[float]]


def workload(requests: int) -> list[corpus.Example]:
    """Tickets and foreign tasks, mixed: none that a model was trained on, or that the detector or a calibration has seen."""
    tickets = round(requests * TICKETS)
    seen = {each.prompt for part in (fit.HOLDOUT, fit.LEARN, fit.CERTIFY) for each in fit.drawn(corpus.traffic(part.seed), part.texts)}
    found = fit.drawn((each for each in corpus.traffic(WORKLOAD_SEED) if each.prompt not in seen), tickets)
    for number, task in enumerate(FOREIGN):
        wanted = (requests - tickets + number) // len(FOREIGN)
        drawn = corpus.evaluation(task, wanted, WORKLOAD_SEED)
        if len(drawn) < wanted:
            raise ValueError(f"there are {len(drawn)} held-out examples of {task}, not {wanted}: ask for fewer requests")
        found += drawn
    random.Random(WORKLOAD_SEED).shuffle(found)
    return found


def own(reply: Reply) -> bool:
    """Of the specialist's own task."""
    return reply.task not in FOREIGN


async def ask(client: openai.AsyncOpenAI, model: str, example: corpus.Example) -> Reply:
    """One request. An error is part of the reply."""
    asked: Any = {"model": model, "messages": example.messages(), "temperature": 0, "max_tokens": fit.TOKENS_MAX, "stream": True}
    text, leaked, finished, backend, reason = "", False, False, "", ""
    try:
        raw = await client.chat.completions.with_raw_response.create(**asked)
        backend, reason = raw.headers["x-headgate-backend"], raw.headers["x-headgate-reason"]
        async for chunk in raw.parse():
            for choice in chunk.choices:
                text += choice.delta.content or ""
                leaked |= choice.logprobs is not None
                finished |= choice.finish_reason is not None
    except openai.OpenAIError as error:
        return Reply(example.task, False, backend, reason, leaked, str(error))
    return Reply(example.task, text == example.answer, backend, reason, leaked, "" if finished else "the stream broke off")


async def ask_all(client: openai.AsyncOpenAI, model: str, examples: Sequence[corpus.Example]) -> list[Reply]:
    """Every request of a workload."""
    return await _some_at_once(lambda example: ask(client, model, example), examples)


async def evidence(client: openai.AsyncOpenAI, model: str, example: corpus.Example, top: int) -> Evidenced:
    """An answer with its log-probabilities (logits where the engine gives those) and the `top` likeliest at each token. Raises
    openai.OpenAIError."""
    asked: Any = {"model": model, "messages": example.messages(), "temperature": 0, "max_tokens": fit.TOKENS_MAX, "stream": True}
    found = Evidenced("", [], [])
    async for chunk in await client.chat.completions.create(**asked, logprobs=True, top_logprobs=top):
        for choice in chunk.choices:
            entries = (choice.logprobs.content if choice.logprobs else None) or []
            found = Evidenced(
                found.text + (choice.delta.content or ""),
                [*found.logprobs, *(entry.logprob for entry in entries)],
                [*found.top_logprobs, *([each.logprob for each in entry.top_logprobs] for entry in entries)],
            )
    return found


async def lines(client: openai.AsyncOpenAI, examples: Sequence[corpus.Example], top: int) -> list[fit.Line]:
    """A line for `headgate calibrate cascade` of each example, which both models answer."""

    async def line(example: corpus.Example) -> fit.Line:
        small = await evidence(client, "specialist", example, top)
        large = await ask(client, "generalist", example)
        if large.failed:
            raise RuntimeError(f"the generalist does not answer: {large.failed}")
        return {
            "evidence": {"logprobs": small.logprobs, "top_logprobs": small.top_logprobs},
            "quality": {"small": int(small.text == example.answer), "large": int(large.right)},
        }

    return await _some_at_once(line, examples)


def judged(found: Iterable[fit.Line], seen: Iterable[Mapping[str, Any]]) -> list[fit.Line]:
    """Of these lines those that a guard lets through, with the detector's score as a feature."""
    pairs = zip(found, seen, strict=True)
    return [{**line, "features": {"ood_score": each["score"]}} for line, each in pairs if not each["ood"]]


async def _some_at_once(do: Callable[[corpus.Example], Awaitable[T]], examples: Sequence[corpus.Example]) -> list[T]:
    room = asyncio.Semaphore(CLIENTS)

    async def within(example: corpus.Example) -> T:
        async with room:
            return await do(example)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(within(example)) for example in examples]
    return [task.result() for task in tasks]
