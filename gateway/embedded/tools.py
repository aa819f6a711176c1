"""Tools of a chat request: what may be called becomes a grammar, and what was written becomes a tool call."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.embedded import grammar
from gateway.embedded.constraint import Constraint, ToolUse, Written
from gateway.embedded.engine import Library
from gateway.embedded.errors import RequestError
from gateway.embedded.tokenizer import IM_END, TOOL_CALL_END

TOOLS_MAX = 32
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HEAD = re.compile(r'\{"name":"([A-Za-z0-9_-]+)","arguments":')


class Offer:
    """The tools that the model may call in one request."""

    def __init__(self, tools: Sequence[Mapping[str, Any]] | None, choice: str | Mapping[str, Any] | None) -> None:
        """Check the tools and the choice; raises a 400 for what is malformed or unknown."""
        calls = [_call(tool) for tool in tools or ()]
        if len(calls) > TOOLS_MAX:
            raise RequestError(400, f"At most {TOOLS_MAX} tools can be offered.", param="tools")
        self.named = isinstance(choice, Mapping)
        if isinstance(choice, Mapping):
            function = choice.get("function")
            wanted = function.get("name") if isinstance(function, Mapping) else None
            calls = [(name, call) for name, call in calls if name == wanted]
        elif choice not in (None, "auto", "none", "required"):
            raise RequestError(400, f"tool_choice is auto, none, required or a named function, not {choice!r}.", param="tool_choice")
        self.forced = self.named or choice == "required"
        if self.forced and not calls:
            raise RequestError(400, "tool_choice asks for a tool that is not among the tools.", param="tool_choice")
        self.shown: Sequence[Mapping[str, Any]] = () if choice == "none" else tuple(tools or ())
        self._calls = () if choice == "none" else tuple(call for _, call in calls)

    def constraint(self, library: Library) -> Constraint | None:
        """Return what holds the model to the tools, a fresh one for each choice; None if there are none."""
        if not self._calls:
            return None
        call = Written(grammar.Either(self._calls), library.tokenizer, library.vocabulary, (TOOL_CALL_END, IM_END))
        return ToolUse(call, forced=self.forced, size=library.vocabulary.size)


def _call(tool: Mapping[str, Any]) -> tuple[str, grammar.Grammar]:
    """Return a tool's name and the grammar of a call of it."""
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, Mapping):
        raise RequestError(400, "Every tool must be of type 'function' and have a 'function'.", param="tools")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RequestError(400, "A function's name has 1 to 64 letters, digits, underscores or dashes.", param="tools")
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    try:
        if not isinstance(parameters, Mapping):
            raise grammar.UnsupportedSchemaError("it must be an object")
        arguments = grammar.of_schema(parameters)
    except grammar.UnsupportedSchemaError as error:
        raise RequestError(400, f"The parameters of {name!r} cannot be followed: {error}.", param="tools") from error
    return name, grammar.row(grammar.text(f'{{"name":"{name}","arguments":'), arguments, grammar.text("}"))


class CallText:
    """The text inside a tool call as it is written: first a name, then arguments, without the brace that closes both."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.arguments = ""
        self._held = ""

    def push(self, text: str) -> str:
        """Take more text and return the arguments that it adds."""
        self._held += text
        if self.name is None:
            head = _HEAD.match(self._held)
            if head is None:
                return ""
            self.name = head[1]
            self._held = self._held[head.end() :]
        added, self._held = self._held[:-1], self._held[-1:]
        self.arguments += added
        return added


def response_grammar(wanted: Mapping[str, Any] | None) -> grammar.Grammar | None:
    """Return the grammar of a `response_format`, None for plain text."""
    if wanted is None or wanted.get("type") in (None, "text"):
        return None
    if wanted["type"] == "json_object":
        return grammar.ANY_OBJECT
    inner = wanted.get("json_schema", wanted)
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    if wanted["type"] != "json_schema" or not isinstance(schema, Mapping):
        raise RequestError(400, "response_format is text, json_object, or json_schema with a schema.", param="response_format")
    try:
        return grammar.of_schema(schema)
    except grammar.UnsupportedSchemaError as error:
        raise RequestError(400, f"The schema cannot be followed: {error}.", param="response_format") from error
