"""The loads that subjects are measured under, by name."""

from __future__ import annotations

from typing import Literal

import msgspec

EVENTS = 128
"""Of content, in every stream."""
INTERVAL_MS = 10.0


class Scenario(msgspec.Struct, frozen=True):
    """A load, and what its cost is divided by."""

    name: str
    about: str
    concurrency: int
    unit: Literal["requests", "events"] = "requests"
    mode: str = "plain"
    """The mock's."""
    stream: bool = False
    mixed: bool = False
    cold: bool = False
    logprobs: bool = False
    prompt_bytes: int = 1000
    held: bool = False
    """Every connection opens one stream, which stays open while memory is read."""
    model: str = "mock"
    """What is asked for: a route of the subject's."""
    ours: bool = False
    """Only Headgate can do it."""
    guarded: bool = False
    """Asks a gateway of its own, whose policy has a detector: that takes memory which no other scenario must show."""

    def options(self) -> list[str]:
        """For the generator."""
        flags = [f"--{name}" for name in ("stream", "mixed", "cold", "logprobs") if getattr(self, name)]
        numbers = ["--concurrency", str(self.concurrency), "--prompt-bytes", str(self.prompt_bytes), "--events", str(EVENTS)]
        numbers += ["--model", self.model]
        return [*flags, *numbers, *(["--once"] if self.held else [])]


SCENARIOS = (
    Scenario("memory", "1,000 streams open, memory only", 1_000, "events", stream=True, held=True, mode="held"),
    Scenario(
        "memory-holding",
        "1,000 streams of which 16 chunks each are held back, memory only, in a run without `memory`",
        1_000,
        "events",
        stream=True,
        held=True,
        mode="holding",
        model="rule",
        ours=True,
    ),
    Scenario("request-1", "requests, one at a time", 1),
    Scenario("request-32", "requests, 32 at once", 32),
    Scenario("request-256", "requests, 256 at once", 256),
    Scenario("prompt-32k", "requests, 32 at once, 32 KB prompts", 32, prompt_bytes=32_000),
    Scenario("cold", "requests, 32 at once, a connection each", 32, cold=True),
    Scenario("stream-32", "32 streams", 32, "events", stream=True),
    Scenario("stream-256", "256 streams", 256, "events", stream=True),
    Scenario("stream-1000", "1,000 streams", 1_000, "events", stream=True),
    Scenario("burst", "256 streams, 16 events a read", 256, "events", stream=True, mode="burst"),
    Scenario("logprobs", "256 streams with five likeliest tokens", 256, "events", stream=True, mode="logprobs", logprobs=True),
    Scenario("rule", "256 streams, a rule on the mean log-probability", 256, "events", stream=True, mode="scored", model="rule", ours=True),
    Scenario("rule-top", "256 streams, a rule on the entropy", 256, "events", stream=True, mode="logprobs", model="rule-top", ours=True),
    Scenario("guard", "requests, 32 at once, a detector before each", 32, model="guard", ours=True, guarded=True),
    Scenario("mixed", "64 clients, a quarter of them streaming", 64, mixed=True),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
DEFAULT = ("memory", "request-1", "request-32", "prompt-32k", "stream-32", "stream-256", "stream-1000", "burst")
