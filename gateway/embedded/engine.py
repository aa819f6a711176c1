"""The models in memory, and one thread that computes: a token of one generation after a token of another, never on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from gateway.embedded import weights
from gateway.embedded.constraint import Constraint, Vocabulary
from gateway.embedded.errors import RequestError
from gateway.embedded.generation import Sampling, Step, generate
from gateway.embedded.model import Cache, Model
from gateway.embedded.tokenizer import Tokenizer
from gateway.embedded.weights import Float32

GENERATIONS_MAX = 64
"""Choices being generated or waiting for the thread; what would exceed it is refused with 503. It also bounds the memory of caches."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Library:
    """The shipped models by name, and the tokenizer that they share."""

    models: Mapping[str, Model]
    tokenizer: Tokenizer
    vocabulary: Vocabulary

    def find(self, name: str) -> Model:
        """Return the model of this name or raise a 404."""
        if name not in self.models:
            known = ", ".join(self.models)
            message = f"The model `{name}` does not exist. There are: {known}."
            raise RequestError(404, message, param="model", code="model_not_found")
        return self.models[name]


def load_library() -> Library:
    """Load every model of the card; an adapter becomes a model of its own, its base with the adapter merged in."""
    card = weights.card()
    tokenizer = Tokenizer((weights.folder() / "tokenizer.json").read_text(encoding="utf-8"))
    tensors = {name: weights.load(name) for name in card}
    models: dict[str, Model] = {}
    for name, facts in card.items():
        if "adapter" in facts:
            adapter = weights.adapter_of(facts)
            merged = weights.merged(tensors[adapter.base], adapter, tensors[name])
            models[name] = Model(weights.config_of(card[adapter.base]), merged)
        else:
            models[name] = Model(weights.config_of(facts), tensors[name])
    return Library(models, tokenizer, Vocabulary(tokenizer))


class Engine:
    """Computes for whoever asks, a step at a time, in the order in which steps are asked for: so all generations advance evenly."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.running = 0
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="embedded")

    def start(self, make: Callable[[], Iterator[T]], *, places: int = 1, block: int = 1) -> Computation[T]:
        """Begin a computation of `places` choices whose items come `block` at a time; raises a 503 if too many are in progress."""
        if self.running + places > GENERATIONS_MAX:
            raise RequestError(503, f"{GENERATIONS_MAX} generations are in progress. Try again.", code="overloaded")
        return Computation(self, self._executor, make, places, block)

    def close(self) -> None:
        """Let the thread go."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class Computation(Generic[T]):
    """Items that the engine's thread computes while they are asked for; nothing is computed ahead, so leaving is cancelling."""

    def __init__(self, engine: Engine, executor: ThreadPoolExecutor, make: Callable[[], Iterator[T]], places: int, block: int) -> None:
        self._engine = engine
        self._executor = executor
        self._make = make
        self._places = places
        self._block = block
        self._open = True
        engine.running += places

    async def blocks(self) -> AsyncIterator[Sequence[T]]:
        """Yield the items, some at a time; ends the computation however it is left."""
        loop = asyncio.get_running_loop()
        items = self._make()
        try:
            while block := await loop.run_in_executor(self._executor, lambda: list(islice(items, self._block))):
                yield block
        finally:
            self.close()

    def close(self) -> None:
        """Give up the places in the engine; does nothing the second time."""
        if self._open:
            self._open = False
            self._engine.running -= self._places


def choices(
    library: Library, model: Model, prompt: Sequence[int], sampling: Sampling, constraints: Sequence[Constraint | None]
) -> Iterator[tuple[int, Step]]:
    """Yield (choice, step): the prompt is computed once, then the choices advance in turn, one for each constraint or None."""
    cache = Cache(model.config, len(prompt) + 64)
    first: Float32 = model.logits(model.hidden(prompt, cache)[-1])
    last = len(constraints) - 1
    running = {
        choice: generate(model, library.tokenizer, cache if choice == last else cache.copy(), first, sampling, constraint, choice)
        for choice, constraint in enumerate(constraints)
    }
    while running:
        for choice, steps in list(running.items()):
            step = next(steps)
            if step.finish is not None:
                del running[choice]
            yield choice, step
