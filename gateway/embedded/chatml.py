"""The ChatML prompt: messages and tools to token ids, and the same as a Jinja template for engines that render it themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from gateway.embedded.tokenizer import IM_END, IM_START, TOOL_CALL, TOOL_CALL_END, Tokenizer

JINJA = (
    "{%- if tools %}{{- '<|im_start|>system\n' }}"
    "{%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] + '\n' }}{%- endif %}"
    "{{- 'Tools:' }}{%- for tool in tools %}{{- ' ' + tool['function']['name'] + '(' }}"
    "{%- for name in tool['function']['parameters']['properties'] %}{{- name }}{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}"
    "{{- ')' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if not (tools and loop.first and message['role'] == 'system') %}"
    "{{- '<|im_start|>' + message['role'] + '\n' }}{%- if message['content'] %}{{- message['content'] }}{%- endif %}"
    "{%- if message['tool_calls'] %}{%- for call in message['tool_calls'] %}"
    "{{- '<tool_call>{\"name\":\"' + call['function']['name'] + '\",\"arguments\":' }}"
    "{%- if call['function']['arguments'] is string %}{{- call['function']['arguments'] }}"
    "{%- else %}{{- call['function']['arguments'] | tojson }}{%- endif %}{{- '}</tool_call>' }}{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
"""`chat_template` of the exported models. It renders what `prompt` renders."""


def tools_line(tools: Sequence[Mapping[str, object]]) -> str:
    """Return the line that tells the model which tools there are: names and parameters, nothing else fits a model of this size."""
    said = "Tools:"
    for tool in tools:
        function = tool["function"]
        assert isinstance(function, Mapping)
        parameters = function.get("parameters")
        names = parameters.get("properties") if isinstance(parameters, Mapping) else None
        said += f" {function['name']}({', '.join(names or {})})"
    return said


def prompt(tokenizer: Tokenizer, messages: Sequence[Mapping[str, object]], tools: Sequence[Mapping[str, object]] = ()) -> list[int]:
    """Return the prompt's ids: every message in its frame, then the head of the assistant's answer.

    Contents are text here. Names of special tokens inside them stay text, so that no message can close its own frame.
    """
    rest = list(messages)
    ids: list[int] = []
    if tools:
        system = f"{rest.pop(0)['content']}\n" if rest and rest[0]["role"] == "system" else ""
        ids += _frame(tokenizer, "system", system + tools_line(tools))
    for message in rest:
        ids += _frame(tokenizer, str(message["role"]), str(message.get("content") or ""), _calls(tokenizer, message))
    return [*ids, IM_START, *tokenizer.encode("assistant\n")]


def _frame(tokenizer: Tokenizer, role: str, content: str, calls: Sequence[int] = ()) -> list[int]:
    return [IM_START, *tokenizer.encode(f"{role}\n{content}"), *calls, IM_END, *tokenizer.encode("\n")]


def _calls(tokenizer: Tokenizer, message: Mapping[str, object]) -> list[int]:
    calls = message.get("tool_calls")
    ids: list[int] = []
    for call in calls if isinstance(calls, Sequence) else ():
        function = call["function"]
        name = json.dumps(function["name"], ensure_ascii=False)
        ids += [TOOL_CALL, *tokenizer.encode(f'{{"name":{name},"arguments":{function["arguments"]}}}'), TOOL_CALL_END]
    return ids
