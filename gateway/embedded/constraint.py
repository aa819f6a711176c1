"""Which tokens may come next: nothing said, a grammar from the first token on, or a grammar inside a tool call."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from gateway.embedded import grammar
from gateway.embedded.tokenizer import HIDDEN, IM_END, TOOL_CALL, TOOL_CALL_END, Tokenizer

Mask = npt.NDArray[np.bool_]


class Constraint(Protocol):
    """Told of every token that was written, it says which may be next."""

    def allowed(self) -> Mask | None:
        """Return which tokens may be next, (vocabulary,); None where all may."""
        ...

    def wrote(self, id_: int) -> None:
        """Take note of a token that was allowed and written."""
        ...


class Vocabulary:
    """The tokens as a tree of bytes, so that what a grammar refuses is refused for all tokens that begin with it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.size = len(tokenizer.token_bytes)
        self._root = _Node()
        for id_, data in enumerate(tokenizer.token_bytes):
            if id_ in HIDDEN or id_ in (TOOL_CALL, TOOL_CALL_END):
                continue
            node = self._root
            for byte in data:
                node = node.children.setdefault(byte, _Node())
            node.ids.append(id_)

    def allowed(self, state: grammar.State) -> Mask:
        """Return which tokens the grammar allows in this state, (vocabulary,)."""
        mask = np.zeros(self.size, np.bool_)
        self._visit(self._root, state, mask)
        return mask

    def _visit(self, node: _Node, state: grammar.State, mask: Mask) -> None:
        for byte, child in node.children.items():
            reached = grammar.advance(state, byte)
            if reached:
                mask[child.ids] = True
                self._visit(child, reached, mask)


class _Node:
    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self.ids: list[int] = []


class Written:
    """A grammar followed token by token; once it is at its end, only `closing` tokens may come, one after the other."""

    def __init__(self, wanted: grammar.Grammar, tokenizer: Tokenizer, vocabulary: Vocabulary, closing: tuple[int, ...] = (IM_END,)) -> None:
        self._state = grammar.start(wanted)
        self._token_bytes = tokenizer.token_bytes
        self._vocabulary = vocabulary
        self._closing = list(closing)
        self._closed = False

    def allowed(self) -> Mask:
        """Return the mask; the first closing token is allowed wherever the grammar may end."""
        mask = np.zeros(self._vocabulary.size, np.bool_) if self._closed else self._vocabulary.allowed(self._state)
        if self._closed or None in self._state:
            mask[self._closing[:1]] = True
        return mask

    def wrote(self, id_: int) -> None:
        """Follow the token."""
        if self._closing and id_ == self._closing[0] and (self._closed or None in self._state):
            self._closing.pop(0)
            self._closed = True
            return
        for byte in self._token_bytes[id_]:
            self._state = grammar.advance(self._state, byte)


class ToolUse:
    """At the first token the model calls a tool or does not, unless it must; inside a call the call's grammar holds."""

    def __init__(self, call: Written, *, forced: bool, size: int) -> None:
        self._call = call
        self._forced = forced
        self._size = size
        self._calling: bool | None = None
        """None until the first token was written."""

    def allowed(self) -> Mask | None:
        """Return the mask of the tool call, or of the token that opens it."""
        if self._calling:
            return self._call.allowed()
        mask = None
        if self._calling is None and self._forced:
            mask = np.zeros(self._size, np.bool_)
            mask[TOOL_CALL] = True
        elif self._calling is False:
            mask = np.ones(self._size, np.bool_)
            mask[TOOL_CALL] = False
        return mask

    def wrote(self, id_: int) -> None:
        """Follow the token."""
        if self._calling:
            self._call.wrote(id_)
        else:
            self._calling = self._calling is None and id_ == TOOL_CALL
