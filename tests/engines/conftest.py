"""Engines for the whole session, started together and only those that a chosen test wants; and the models they serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.embedded import export
from tests.engines.asking import ADAPTER
from tests.engines.install import EngineMissingError
from tests.engines.processes import Engine, start_llama, start_vllm

TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")


class Engines:
    """The session's engines by the name of their fixture."""

    def __init__(self) -> None:
        self._running: dict[str, Engine] = {}
        self._missing: dict[str, str] = {}

    def start(self, name: str, starter: Callable[[], Engine]) -> None:
        try:
            self._running[name] = starter()
        except EngineMissingError as reason:
            self._missing[name] = str(reason)

    def ready(self, name: str) -> Engine:
        """The engine once it is ready; skips the test where it cannot be had."""
        if name in self._missing:
            pytest.skip(self._missing[name])
        engine = self._running[name]
        engine.wait_ready()
        return engine

    def stop(self) -> None:
        for engine in self._running.values():
            engine.stop()


def _named(item: pytest.Item) -> Iterator[str]:
    """The fixtures of a test, and those that it is run for."""
    yield from getattr(item, "fixturenames", ())
    if callspec := getattr(item, "callspec", None):
        yield from (value for value in callspec.params.values() if isinstance(value, str))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the specialist as Hugging Face has it, as GGUF, and with its LoRA adapter."""
    folder = tmp_path_factory.mktemp("models")
    export.hugging_face("specialist", folder / "specialist")
    export.llama_cpp("specialist", folder)
    export.adapter(ADAPTER, folder / ADAPTER)
    return folder


@pytest.fixture(scope="session")
def engines(request: pytest.FixtureRequest, models: Path) -> Iterator[Engines]:
    logs, gguf, hugging_face = models, models / "specialist.gguf", models / "specialist"
    adapter = ("--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"{ADAPTER}={models / ADAPTER}")
    starters: dict[str, Callable[[], Engine]] = {
        "vllm": lambda: start_vllm(hugging_face, logs / "vllm.log", *TOOLS, *adapter),
        "vllm_logits": lambda: start_vllm(hugging_face, logs / "vllm_logits.log", "--logprobs-mode", "raw_logits"),
        # Context shift: a generation that never ends, for clients that leave.
        "llama_server": lambda: start_llama(gguf, logs / "llama.log", "--context-shift", "--parallel", "2"),
        "llama_embeddings": lambda: start_llama(gguf, logs / "llama_embeddings.log", "--embeddings", "--pooling", "mean"),
    }
    wanted = {name for item in request.session.items for name in _named(item)}
    running = Engines()
    try:
        for name, starter in starters.items():
            if name in wanted:
                running.start(name, starter)
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def vllm(engines: Engines) -> Engine:
    """vLLM with the specialist and, beside it, the adapter."""
    return engines.ready("vllm")


@pytest.fixture(scope="session")
def vllm_logits(engines: Engines) -> Engine:
    """vLLM that returns logits in the place of log-probabilities."""
    return engines.ready("vllm_logits")


@pytest.fixture(scope="session")
def llama_server(engines: Engines) -> Engine:
    """llama-server with the specialist."""
    return engines.ready("llama_server")


@pytest.fixture(scope="session")
def llama_embeddings(engines: Engines) -> Engine:
    """llama-server that embeds."""
    return engines.ready("llama_embeddings")
