"""Structured logs: one line an event on stderr, as text for people or as JSON for machines. The standard library's alone.

A log call names the event and gives its fields as `extra`: `log.info("policy in force", extra={"version": version})`.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import msgspec

FIELD_CHARS_MAX = 4_096
"""Of one value; what is longer is cut."""
PROBLEMS_PER_SECOND = 10
"""Lines a second that one `Problems` writes."""

_NOT_FIELDS = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName", "color_message"}


def configure(*, format: str, level: str, process: str, stream: TextIO | None = None) -> None:
    """Send every log line of this process to stderr. `format` is `text` or `json`, `level` a name of `logging`, in any case;
    `process` stands on every line (`worker-1`, `controller`).

    Raises:
        ValueError: There is no such format or level.
    """
    if format not in ("text", "json"):
        raise ValueError(f"log format is text or json, not {format!r}")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(process) if format == "json" else TextFormatter(process))
    root = logging.getLogger()
    root.setLevel(level.upper())
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)


class JsonFormatter(logging.Formatter):
    """`{"time": ..., "level": ..., "process": ..., "event": ..., "logger": ..., fields...}`."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "process": self._process,
            "event": _bounded(record.getMessage()),
            "logger": record.name,
        }
        for name, value in _fields(record):
            line.setdefault(name, value if isinstance(value, bool | int | float | None) else _bounded(value))
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = _bounded(_named(record.exc_info[1]))
            # The end of a traceback is where it happened.
            line["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))[-FIELD_CHARS_MAX:]
        return _json(line)


class TextFormatter(logging.Formatter):
    """`2026-11-20T10:00:00.123Z info    controller  policy in force  version=ab12`. An exception's frames stand on the same
    line, innermost first, so that one event is one line here too."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        event = _escaped(_bounded(record.getMessage()))
        parts = [f"{_time(record.created)} {record.levelname.lower():<8}{self._process:<12}{event}"]
        parts += [f"{name}={_quoted(_bounded(value))}" for name, value in _fields(record)]
        if record.exc_info and record.exc_info[1] is not None:
            parts.append(f"error={_quoted(_bounded(_named(record.exc_info[1])))}")
            frames = traceback.extract_tb(record.exc_info[2])
            parts.append("at=" + _quoted(_bounded(" < ".join(f"{f.filename}:{f.lineno} {f.name}" for f in reversed(frames)))))
        return "  ".join(parts)


class Problems:
    """Lines about single exchanges: only for problems, and only so many a second, so that a backend that is down does not
    fill a disk. What was suppressed is counted, and told by the next line that is written."""

    def __init__(self, log: logging.Logger, *, per_second: int = PROBLEMS_PER_SECOND, clock: Callable[[], float] = time.monotonic) -> None:
        self.suppressed = 0
        """In all."""
        self._log = log
        self._per_second = per_second
        self._clock = clock
        self._second = -1
        self._written = 0
        self._untold = 0

    def warn(self, event: str, **fields: object) -> None:
        """Write a line, or count it."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._written = second, 0
        if self._written >= self._per_second:
            self.suppressed += 1
            self._untold += 1
            return
        self._written += 1
        if self._untold:
            fields["suppressed"], self._untold = self._untold, 0
        # Not as attributes of their own: a field may be called `name` or `args`.
        self._log.warning(event, extra={"fields": fields})


def _fields(record: logging.LogRecord) -> list[tuple[str, object]]:
    fields = [(name, value) for name, value in record.__dict__.items() if name not in _NOT_FIELDS and name != "fields"]
    return fields + list(getattr(record, "fields", {}).items())


def _time(seconds: float) -> str:
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((seconds - whole) * 1000):03d}Z"


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _bounded(value: object) -> str:
    text = str(value)
    return text if len(text) <= FIELD_CHARS_MAX else text[:FIELD_CHARS_MAX] + "..."


def _escaped(text: str) -> str:
    """Without line breaks and control characters: what a client sent must not forge a line or drive a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _quoted(text: str) -> str:
    return (
        _escaped(text)
        if text and not any(c in text for c in ' "=\\')
        else f'"{_escaped(text.replace(chr(92), chr(92) * 2).replace(chr(34), chr(92) + chr(34)))}"'
    )


def _json(line: dict[str, Any]) -> str:
    try:
        return msgspec.json.encode(line).decode()
    except UnicodeEncodeError:  # a lone surrogate
        clean = {name: value.encode(errors="replace").decode() if isinstance(value, str) else value for name, value in line.items()}
        return msgspec.json.encode(clean).decode()
