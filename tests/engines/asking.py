"""What the tests with engines ask, and how: tickets for the specialist, and OpenAI's own client."""

from __future__ import annotations

from typing import Any

import openai

from gateway.embedded import tickets, weights
from gateway.embedded.tokenizer import Tokenizer
from tests.e2e.gateway import Gateway

TICKET = "I was charged twice for the lamp. Please help."
LABEL = "billing"
ADAPTER = "specialist-queues"
"""A LoRA adapter of the specialist, under another tenant's names for the labels (`corpus.QUEUES`)."""
LABEL_SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": list(tickets.LABELS)}},
    "required": ["label"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "route", "strict": True, "parameters": LABEL_SCHEMA}}
NAMED_TOOL: dict[str, Any] = {"type": "function", "function": {"name": "route"}}
LABEL_FORMAT: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "label", "strict": True, "schema": LABEL_SCHEMA}}
ENDLESS: dict[str, Any] = {"ignore_eos": True}
"""Extra body: generate to the last token allowed."""


def no_padding(**more: int) -> dict[str, int]:
    """A logit_bias against white space, with which a model of this size fills JSON for as long as the grammar lets it."""
    vocabulary = Tokenizer((weights.folder() / "tokenizer.json").read_text()).vocabulary
    return {str(vocabulary[blank]): -100 for blank in "\u0120\u010a\u010d\u0109"} | more


def messages(content: str = TICKET) -> Any:
    return [{"role": "user", "content": content}]


def client_of(running: Gateway) -> openai.AsyncOpenAI:
    """OpenAI's client, which would otherwise hide a failure by trying again."""
    return openai.AsyncOpenAI(base_url=f"{running.data}/v1", api_key="none-needed", timeout=60, max_retries=0)
