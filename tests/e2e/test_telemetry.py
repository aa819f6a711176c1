"""What a running gateway tells of itself: spans to a collector, and structured logs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from gateway.telemetry.logs import PROBLEMS_PER_SECOND
from tests.collector import Collector, collecting
from tests.e2e.gateway import chat, eventually
from tests.e2e.site import Site, site
from tests.standin import fails

POLICY = """
version: 1
backends:
  - {name: small, kind: openai, replicas: ["SMALL"], model: tiny, ALONE}
  - {name: big, kind: openai, replicas: ["BIG"], model: huge, ALONE}
routes:
  - {name: chat, matches: [{models: [chat]}], failover: [small, big]}
"""
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(collector: Collector) -> AsyncIterator[Site]:
    options = ["--otlp-endpoint", collector.endpoint, "--trace-sample-percent", "0", "--log-format", "json", "--workers", "2"]
    async with site(POLICY, *options, environment={"OTEL_METRIC_EXPORT_INTERVAL": "200"}) as found:
        yield found


async def spans(collector: Collector, trace: str, count: int) -> list[Span]:
    """The spans of a trace, once so many have arrived."""

    async def look() -> list[Span]:
        found = [span for span in collector.spans if span.trace_id.hex() == trace]
        return found if len(found) >= count else []

    found = await eventually(look, 20)
    assert isinstance(found, list)
    return found


def problems(site: Site) -> list[dict[str, Any]]:
    """The log's lines about requests that failed."""
    lines = [json.loads(line) for line in site.gateway.log if line.startswith("{")]
    return [line for line in lines if line["event"] == "a request failed"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_collector_gets_the_spans_that_the_client_and_the_backends_know_of(
    running: Site, collector: Collector, stream: bool
) -> None:
    running.play(small=fails(500))
    trace = TRACE[:-1] + str(int(stream))
    async with running.client() as client:
        headers = {"traceparent": f"00-{trace}-{PARENT}-01"}
        answer = await client.post("/v1/chat/completions", json=chat(stream=stream), headers=headers)
    assert answer.status_code == 200
    by_id = {span.span_id.hex(): span for span in await spans(collector, trace, 3)}
    assert len(by_id) == 3
    (exchange,) = [span for span in by_id.values() if span.kind == Span.SPAN_KIND_SERVER]
    assert exchange.parent_span_id.hex() == PARENT
    for backend in (running.small, running.big):
        (asked,) = backend.asked
        call = by_id[asked.headers["traceparent"].split("-")[2]]
        assert (call.kind, call.parent_span_id) == (Span.SPAN_KIND_CLIENT, exchange.span_id)


async def test_what_is_not_sampled_is_not_exported(running: Site, collector: Collector) -> None:
    running.play()
    unsampled, sampled = "1" * 32, "2" * 32
    async with running.client() as client:
        for trace, flags in ((unsampled, "00"), (sampled, "01")):
            headers = {"traceparent": f"00-{trace}-{PARENT}-{flags}"}
            assert (await client.post("/v1/chat/completions", json=chat(), headers=headers)).status_code == 200
            assert running.small.asked[-1].headers["traceparent"].endswith(f"-{flags}")
    await spans(collector, sampled, 2)
    assert [span for span in collector.spans if span.trace_id.hex() == unsampled] == []


async def test_a_collector_gets_the_metrics_of_calls_that_are_not_sampled_too(running: Site, collector: Collector) -> None:
    running.play(small=fails(500))
    async with running.client() as client:
        assert (await client.post("/v1/chat/completions", json=chat(stream=True))).status_code == 200

    async def look() -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for name, metric in collector.metrics.items():
            for point in metric.histogram.data_points:
                said = {each.key: each.value.string_value for each in point.attributes}
                found.setdefault(name, set()).add(f"{said['headgate.backend']}:{said.get('error.type', 'ok')}")
        timed = found.get("gen_ai.client.operation.duration", set()), found.get("gen_ai.client.operation.time_to_first_chunk", set())
        return found if {"small:status", "big:ok"} <= timed[0] and "big:ok" in timed[1] else {}

    assert await eventually(look, 20)


async def test_a_request_that_failed_is_one_line_that_says_what_and_not_what_was_said(running: Site) -> None:
    running.play(small=fails(500, "you said SECRET"), big=fails(503, "you said SECRET"))
    async with running.client() as client:
        theirs = await client.post("/v1/chat/completions", json=chat(model="unknown"))
        answer = await client.post("/v1/chat/completions", json=chat(content="SECRET"))
    assert (theirs.status_code, answer.status_code) == (404, 503)

    async def look() -> list[dict[str, Any]]:
        return [line for line in problems(running) if line["exchange_id"] == answer.headers["x-headgate-exchange-id"]]

    (line,) = await eventually(look)
    assert (line["level"], line["route"], line["code"], line["calls"]) == ("warning", "chat", 503, "small:500 big:503")
    assert line["process"].startswith("worker-")
    assert not [line for line in problems(running) if line["code"] < 500], "what is the client's fault is in its record alone"
    assert not [line for line in running.gateway.log if "SECRET" in line]


async def test_a_backend_that_is_down_does_not_fill_the_disk(running: Site) -> None:
    running.play(small=fails(500), big=fails(500))
    before = len(problems(running))
    async with running.client() as client:
        for _ in range(10 * PROBLEMS_PER_SECOND):
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 502

    async def look() -> int:
        return len(problems(running)) - before

    assert 0 < await eventually(look) < 8 * PROBLEMS_PER_SECOND


async def test_every_line_of_the_log_is_json(running: Site) -> None:
    lines = [json.loads(line) for line in running.gateway.log]
    (ready,) = [line for line in lines if line["event"] == "Headgate is ready"]
    assert (ready["process"], ready["base_url"]) == ("supervisor", f"{running.gateway.data}/v1")
    assert {"time", "level", "process", "event", "logger"} <= set.intersection(*map(set, lines))
    assert {line["process"] for line in lines} >= {"controller", "worker-0", "worker-1"}
