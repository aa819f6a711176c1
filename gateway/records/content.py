"""What was asked and answered, as it is stored: strings of a JSON document redacted where they stand, a stream put together to
the texts that it carried, so that an address split over two chunks is found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from gateway.link.messages import Content
from gateway.records.redact import Redactor

NESTED_MAX = 3
"""JSON within a string of JSON (the arguments of a tool call) is looked into so deep."""
PARTS_MAX = 1_000
"""Texts that one stream is put together to; the rest is left out."""

_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*+)(\\?)("?)|[^"]++', re.DOTALL)
_NO_TEXT = ("role", "type", "index")
_LONG_NUMBER = re.compile(r"\d{13,}")
_CUT_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{0,3}\Z")


def prepared(content: Content, redactor: Redactor) -> Content:
    """`content` as it may be stored: the request as JSON, the response as JSON too, of a stream its parts
    (`[{"index": 0, "kind": "content", "text": "..."}, ...]`).

    Raises:
        SlowTextError: It took too long; store nothing of it.
    """
    request = _redacted_document(_decoded(content.request), redactor)
    parts = streamed_parts(content.response)
    if parts is None:
        return Content(request, _redacted_document(_decoded(content.response), redactor), content.truncated)
    deadline = redactor.deadline()
    for part in parts:
        part["text"] = _redacted_text(part["text"], redactor, deadline, 1)
    return Content(request, _encoded(json.dumps(parts, ensure_ascii=False)), content.truncated or len(parts) == PARTS_MAX)


def streamed_parts(response: bytes) -> list[dict[str, Any]] | None:
    """The texts that a stream of server-sent events carried, each put together, in the order of their beginning; None where
    `response` is no such stream. What is no JSON (`[DONE]`, an event that was cut) carries none."""
    if not response.lstrip().startswith((b"data:", b"event:", b":", b"id:", b"retry:")):
        return None
    texts: dict[tuple[int, str], list[str]] = {}

    def add(index: object, prefix: str, fields: dict[str, Any]) -> None:
        for name, value in fields.items():
            if isinstance(value, str) and name not in _NO_TEXT:
                key = (index if isinstance(index, int) else 0, prefix + name)
                if key in texts:
                    texts[key].append(value)
                elif len(texts) < PARTS_MAX:
                    texts[key] = [value]

    for data in _events(response):
        try:
            event = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(event, dict):
            _take_texts(event, add)
    return [{"index": index, "kind": kind, "text": "".join(pieces)} for (index, kind), pieces in texts.items()]


def _events(response: bytes) -> Iterator[bytes]:
    """The data of every event. Source: HTML, section 9.2.6."""
    lines: list[bytes] = []
    for line in (*response.splitlines(), b""):
        if line.startswith(b"data:"):
            lines.append(line[5:].removeprefix(b" "))
        elif not line and lines:
            yield b"\n".join(lines)
            lines.clear()


def _take_texts(event: dict[str, Any], add: Callable[[object, str, dict[str, Any]], None]) -> None:
    """Give `add` (index, prefix of their names, fields) for every piece of text in one event of any of the endpoints."""
    for choice in _dicts(event.get("choices")):
        index = choice.get("index")
        add(index, "", choice)  # completions: text; all: finish_reason
        inner = choice.get("delta")
        if isinstance(inner, dict):
            add(index, "", inner)
            for call in _dicts(inner.get("tool_calls")):
                if isinstance(function := call.get("function"), dict):
                    add(index, f"tool_calls[{call.get('index', 0)}].", function)
    if (delta := event.get("delta")) is not None:
        index = event.get("index", event.get("output_index"))
        if isinstance(delta, str):  # responses: {"type": "response.output_text.delta", "output_index": 0, "delta": "..."}
            add(index, "", {str(event.get("type")).removesuffix(".delta").removeprefix("response."): delta})
        elif isinstance(delta, dict):  # messages: {"type": "content_block_delta", "index": 0, "delta": {"type": ..., "text": "..."}}
            add(index, "", delta)
    if isinstance(error := event.get("error"), dict):
        add(0, "error.", error)


def _dicts(value: object) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _redacted_document(text: str, redactor: Redactor) -> bytes:
    return _encoded(_redacted_text(text, redactor, redactor.deadline(), NESTED_MAX))


def _redacted_text(text: str, redactor: Redactor, deadline: float, nested: int) -> str:
    """`text`, which may be JSON, whole or cut: then its strings are redacted as what they say, not as they are spelt."""
    if not redactor.active:
        return text
    if nested == 0 or not text.lstrip().startswith(("{", "[")):
        return redactor.text(text, deadline)
    whole = _is_json(text)

    def number(match: re.Match[str]) -> str:
        redacted = redactor.text(match[0], deadline)
        return match[0] if redacted == match[0] else json.dumps(redacted)

    def token(match: re.Match[str]) -> str:
        if not match[0].startswith('"'):
            # In JSON, what stands outside of strings is numbers: short ones are times and sizes.
            return _LONG_NUMBER.sub(number, match[0]) if whole else redactor.text(match[0], deadline)
        said = _said(match[1], closed=bool(match[3]))
        if said is None:
            return redactor.text(match[0], deadline)
        redacted = _redacted_text(said, redactor, deadline, nested - 1)
        return match[0] if redacted == said else json.dumps(redacted, ensure_ascii=False)

    return _TOKEN.sub(token, text)


def _said(body: str, *, closed: bool) -> str | None:
    """What the inside of a JSON string literal says; None where it is none. One that is not closed may end within an escape."""
    try:
        said = json.loads(f'"{body if closed else _CUT_ESCAPE.sub("", body)}"', strict=False)
    except ValueError:
        return None
    return said if isinstance(said, str) else None


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    return True


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # a lone surrogate has no UTF-8
