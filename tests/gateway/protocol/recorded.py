"""Raw answers of real engines: status line, headers, body."""

from __future__ import annotations

from pathlib import Path

from policies.plan import Endpoint

FOLDER = Path(__file__).parent / "recordings"
ENGINES = ("vllm", "llama-server", "ollama")
STREAMS: tuple[tuple[str, Endpoint], ...] = (
    ("chat_stream", "chat"),
    ("chat_stream_usage_logprobs", "chat"),
    ("completions_stream", "completions"),
    ("responses_stream", "responses"),
    ("messages_stream", "messages"),
)


def body_of(engine: str, name: str) -> bytes:
    return (FOLDER / engine / f"{name}.txt").read_bytes().split(b"\r\n\r\n", 1)[1]


def events_of(engine: str, name: str) -> list[bytes]:
    """The events of a recorded stream, each with its blank line (all engines end lines with LF)."""
    return [event + b"\n\n" for event in body_of(engine, name).split(b"\n\n")[:-1]]
