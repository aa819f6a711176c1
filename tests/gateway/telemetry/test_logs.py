from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.logs import FIELD_CHARS_MAX, JsonFormatter, Problems, TextFormatter, configure


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def lines(format: str, root: logging.Logger, level: str = "info") -> tuple[io.StringIO, logging.Logger]:
    stream = io.StringIO()
    configure(format=format, level=level, process="worker-1", stream=stream)
    return stream, logging.getLogger("gateway.test")


def test_json_lines(root: logging.Logger) -> None:
    stream, log = lines("json", root)
    log.info("policy in force", extra={"version": "ab12", "workers": 2, "ready": True, "why": None, "odd": {"a": 1}})
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "process": "worker-1",
        "event": "policy in force",
        "logger": "gateway.test",
        "version": "ab12",
        "workers": 2,
        "ready": True,
        "why": None,
        "odd": "{'a': 1}",
    }


def test_text_lines(root: logging.Logger) -> None:
    stream, log = lines("text", root)
    log.warning("backend %s is not ready", "small", extra={"replica": "http://a:1", "why": 'said "no"', "empty": ""})
    line = stream.getvalue()
    assert line[23:] == 'Z warning worker-1    backend small is not ready  replica=http://a:1  why="said \\"no\\""  empty=""\n'.lstrip()


@pytest.mark.parametrize("format", ["text", "json"])
def test_an_exception_is_one_line_with_its_frames(format: str, root: logging.Logger) -> None:
    stream, log = lines(format, root)
    try:
        json.loads("{")
    except ValueError:
        log.exception("broken\nin two")
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "JSONDecodeError: Expecting" in text
    assert "test_an_exception_is_one_line_with_its_frames" in text


@given(st.text(), st.text())
def test_nothing_said_forges_a_line_or_drives_a_terminal(event: str, value: str) -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, event, (), None)
    record.fields = {"value": value, "level": "forged"}
    text = TextFormatter("controller").format(record)
    assert text.isprintable()
    encoded = JsonFormatter("controller").format(record)
    assert "\n" not in encoded
    encoded.encode()
    parsed = json.loads(encoded)
    assert (parsed["level"], parsed["process"]) == ("info", "controller")


def test_values_are_bounded(root: logging.Logger) -> None:
    stream, log = lines("text", root)
    log.info("x" * 100_000, extra={"value": "y" * 100_000})
    assert len(stream.getvalue()) < FIELD_CHARS_MAX * 2 + 200


def test_the_level_holds_and_configuring_again_replaces(root: logging.Logger) -> None:
    first, log = lines("text", root)
    second, log = lines("json", root, level="ERROR")
    log.warning("quiet")
    log.error("loud")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["event"] == "loud"


@pytest.mark.parametrize(("format", "level"), [("xml", "info"), ("text", "chatty")])
def test_a_bad_setting_is_refused(format: str, level: str, root: logging.Logger) -> None:
    with pytest.raises(ValueError, match=r"xml|CHATTY"):
        configure(format=format, level=level, process="x")


def test_problems_are_limited_by_the_second_and_what_was_suppressed_is_told(root: logging.Logger) -> None:
    stream, log = lines("json", root)
    now = 10.0
    problems = Problems(log, per_second=3, clock=lambda: now)
    for number in range(10):
        problems.warn("call failed", name="small", number=number)
    assert [json.loads(line)["number"] for line in stream.getvalue().splitlines()] == [0, 1, 2]
    assert problems.suppressed == 7
    now = 11.5
    problems.warn("call failed", name="small")
    problems.warn("call failed", name="small")
    last = [json.loads(line) for line in stream.getvalue().splitlines()[3:]]
    assert [line.get("suppressed") for line in last] == [7, None]
    assert last[0]["name"] == "small"
    assert problems.suppressed == 7


def test_a_worker_may_load_it() -> None:
    code = "import sys, gateway.telemetry.logs, gateway.telemetry.trace_context; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"yaml", "starlette", "uvicorn", "httpx", "sqlite3", "numpy", "opentelemetry", "prometheus_client", "asyncio"} & set(loaded)
