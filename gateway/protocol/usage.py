"""Tokens read and written, as each endpoint reports them."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one reply. `input` includes those that came from a cache."""

    input: int
    output: int


class WireUsage(msgspec.Struct, gc=False):
    """The `usage` object of any endpoint. Chat, completions and embeddings count prompt and completion tokens; responses and
    messages input and output; messages counts what came from a cache apart."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None

    def usage(self) -> Usage | None:
        """None where it counts nothing."""
        if self.prompt_tokens is not None:
            return Usage(self.prompt_tokens, self.completion_tokens or 0)
        if self.input_tokens is None and self.output_tokens is None:
            return None
        cached = (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
        return Usage((self.input_tokens or 0) + cached, self.output_tokens or 0)
