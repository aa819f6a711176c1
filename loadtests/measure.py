"""One round of one scenario on one subject: what it cost, how late its answers came, and whether all counts agree."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request

import msgspec

from loadtests import processes
from loadtests.scenarios import Scenario
from loadtests.subjects import LOAD_CORE, Counts, Subject

SETTLE_S = 0.3
"""What is flushed so soon after the last answer belongs to the run."""
AGREE_S = 10.0
"""Metrics are reported about once a second, records some milliseconds after the answer."""
HELD_S = 2.5
"""In which every stream of a memory round is opened."""
QUIET_S = 180.0
"""What a subject is given to end what it still does after a round; LiteLLM works off what its clients have given up."""
QUIET_LOOK_S = 0.5
QUIET_SHARE = 0.1
"""Of a core: below it a subject is at rest."""


class VoidError(Exception):
    """A round that does not count; the message says which figures disagree."""


class Round(msgspec.Struct):
    """Microseconds of CPU, microseconds of delay, bytes: by name."""

    figures: dict[str, float]
    errors: dict[str, int] = {}
    void: str = ""


def ask_mock(port: int, path: str) -> dict[str, int]:
    answer = urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30).read()
    found: dict[str, int] = json.loads(answer)
    return found


def measure(subject: Subject, scenario: Scenario, mock: int, *, seconds: float, patience: float) -> Round:
    """Run it. A round whose counts disagree comes back void."""
    ask_mock(mock, f"/mode/{scenario.mode}")
    counted = ask_mock(mock, "/count")
    told = subject.counts() if subject.counts else None
    before = subject.usage()
    argv = [sys.executable, "-m", "loadtests.generator", "--url", f"http://127.0.0.1:{subject.port}", "--key", subject.key]
    argv += [*scenario.options(), "--seconds", str(HELD_S if scenario.held else seconds), "--patience", str(patience)]
    generator = subprocess.Popen(processes.pinned(LOAD_CORE, *argv), stdout=subprocess.PIPE)
    held = _hold(subject, scenario, mock) if scenario.held else {}
    try:
        out, _ = generator.communicate(timeout=seconds + patience + 30)
    except subprocess.TimeoutExpired:
        generator.kill()
        generator.communicate()
        return Round({}, void="the generator did not end")
    finally:
        ask_mock(mock, "/mode/plain")
    time.sleep(SETTLE_S)
    after = subject.usage()
    seen = json.loads(out)
    recounted = ask_mock(mock, "/count")
    try:
        _agree(subject, scenario, seen, counted, recounted, told)
        figures = _memory(subject.idle, before, held, scenario) if scenario.held else _costs(before, after, seen[scenario.unit])
    except VoidError as error:
        return Round({}, seen["errors"], str(error))
    figures |= {key: value for key, value in seen.items() if key.endswith("_us")} if not scenario.held else {}
    figures |= {"units": float(seen[scenario.unit]), "generator_cpu_s": seen["generator_cpu_s"], "seconds": seen["seconds"]}
    figures["mock_cpu_s"] = (recounted["cpu_us"] - counted["cpu_us"]) / 1e6
    return Round(figures, seen["errors"])


def answered(mock: int) -> tuple[int, int]:
    """Requests and events so far; not its connections, of which every look is one."""
    count = ask_mock(mock, "/count")
    return count["requests"], count["events"]


def wait_until_quiet(subject: Subject, mock: int) -> bool:
    """Until the subject is at rest and the mock has nothing more to answer: what is left of one round must not be in the next one,
    which is another subject's on the same core. False: it never came to rest."""
    until = time.monotonic() + QUIET_S
    while time.monotonic() < until:
        asked, spent = answered(mock), processes.total(subject.usage()).cpu_s
        time.sleep(QUIET_LOOK_S)
        rests = processes.total(subject.usage()).cpu_s - spent < QUIET_SHARE * QUIET_LOOK_S
        if rests and answered(mock) == asked:
            return True
    return False


def _hold(subject: Subject, scenario: Scenario, mock: int) -> dict[str, processes.Usage]:
    """What is used while every stream is open; then lets them go on."""
    time.sleep(HELD_S)
    held = subject.usage()
    ask_mock(mock, "/mode/plain")
    return held


def _costs(before: dict[str, processes.Usage], after: dict[str, processes.Usage], units: int) -> dict[str, float]:
    if not before:
        return {}
    if before.keys() != after.keys():
        raise VoidError(f"processes came or went: {sorted(before)} before, {sorted(after)} after")
    parts = {f"{role}_us": (after[role].cpu_s - before[role].cpu_s) / units * 1e6 for role in after}
    return {"us": sum(parts.values()), **(parts if len(parts) > 1 else {})}


def _memory(
    idle: dict[str, processes.Usage], before: dict[str, processes.Usage], held: dict[str, processes.Usage], scenario: Scenario
) -> dict[str, float]:
    if not before:
        return {}
    grown = processes.total(held).resident - processes.total(before).resident
    figures = {"kib_per_stream": grown / scenario.concurrency / 1024, "idle_mib": processes.total(idle).resident / 2**20}
    if "worker" in before:
        grown = held["worker"].resident - before["worker"].resident
        figures |= {"worker_kib_per_stream": grown / scenario.concurrency / 1024, "worker_idle_mib": idle["worker"].resident / 2**20}
    return figures


def _agree(
    subject: Subject, scenario: Scenario, seen: dict[str, int], before: dict[str, int], after: dict[str, int], told: Counts | None
) -> None:
    """Raises VoidError unless generator, backend, metrics and records counted the same."""
    if seen["errors"]:
        raise VoidError(f"errors: {seen['errors']}")
    if not seen["requests"]:
        raise VoidError("nothing was answered")
    for name in ("requests", "events"):
        if (sent := after[name] - before[name]) != seen[name]:
            raise VoidError(f"the generator counted {seen[name]} {name}, the backend {sent}")
    if subject.counts is None or told is None:
        return
    until = time.monotonic() + AGREE_S
    expected = Counts(told.metrics + seen["requests"], told.records + seen["requests"])
    while (now := subject.counts()) != expected:
        if time.monotonic() > until:
            raise VoidError(
                f"the generator counted {seen['requests']} requests, the metrics {now.metrics - told.metrics}, "
                f"the store {now.records - told.records}"
            )
        time.sleep(0.2)
