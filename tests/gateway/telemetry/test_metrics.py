from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from gateway.telemetry.catalog import CATALOG, SECONDS
from gateway.telemetry.counters import Counters
from gateway.telemetry.metrics import GONE_MAX, Counted, Exposition
from gateway.telemetry.reference import markdown
from gateway.telemetry.sample import Sample

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
REQUESTS = "headgate_requests_total"
LABELS = ("chat", "primary", "200")


def samples(exposition: Exposition, accept: str = "") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Everything exposed, read by Prometheus's own parser."""
    body, content_type = exposition.render(accept)
    parse = openmetrics_parser.text_string_to_metric_families if "openmetrics" in content_type else text_string_to_metric_families
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in parse(body.decode()) for sample in family.samples
    }


def requests(count: float) -> list[Sample]:
    return [Sample(REQUESTS, LABELS, count)]


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain; version=0.0.4", "text/plain; version=1.0.0", OPENMETRICS, "nonsense;;="])
def test_every_metric_of_the_catalog_is_exposed_in_both_forms(accept: str) -> None:
    counters = Counters()
    for metric in CATALOG:
        labels = [f'{label} "quoted" \\ \n' for label in metric.labels]
        if metric.kind == "histogram":
            counters.histogram(metric.name, *labels).observe(0.3)
        else:
            counters.counter(metric.name, *labels).inc(2)
    exposition = Exposition()
    exposition.update("w", counters.totals())
    found = samples(exposition, accept)
    for metric in CATALOG:
        labels = tuple(sorted((label, f'{label} "quoted" \\ \n') for label in metric.labels))
        if metric.kind == "histogram":
            assert found[f"{metric.name}_count", labels] == 1
            assert found[f"{metric.name}_sum", labels] == 0.3
            bounds = {float(dict(rest)["le"]): value for (name, rest), value in found.items() if name == f"{metric.name}_bucket"}
            assert bounds == {bound: float(bound >= 0.3) for bound in (*metric.buckets, float("inf"))}
        else:
            assert found[metric.name, labels] == 2


def test_the_content_type_is_what_was_asked_for() -> None:
    assert Exposition().render("")[1].startswith("text/plain")
    body, content_type = Exposition().render(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_workers_are_added_up_and_a_repeated_message_changes_nothing() -> None:
    exposition = Exposition()
    for _ in range(3):
        exposition.update("a", requests(5))
        exposition.update("b", requests(2))
    assert exposition.value(REQUESTS, *LABELS) == 7
    exposition.update("a", requests(6))
    assert exposition.value(REQUESTS, *LABELS) == 8


def test_a_worker_sends_only_what_has_changed_after_the_first_time() -> None:
    exposition = Exposition()
    other = ("chat", "failover", "200")
    exposition.update("a", [Sample(REQUESTS, LABELS, 5), Sample(REQUESTS, other, 2)])
    exposition.update("a", [Sample(REQUESTS, other, 3)])
    assert exposition.value(REQUESTS, *LABELS) == 5
    assert exposition.value(REQUESTS, *other) == 3


def restarted(exposition: Exposition) -> Exposition:
    """The exposition of the next controller, which has read what this one wrote."""
    again = Exposition()
    again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(exposition.checkpoint("run")), type=Counted))
    return again


def test_a_restarted_controller_knows_the_counts_of_the_dead_and_counts_nobody_twice() -> None:
    exposition = Exposition()
    counters = Counters()
    counters.counter("headgate_connections_open").value = 9
    counters.histogram("headgate_request_duration_seconds", "chat").observe(SECONDS[3])
    for name in ("dead", "dies meanwhile", "lives"):
        exposition.update(name, [*counters.totals(), *requests(5)])
    exposition.retire("dead")
    exposition.counter("headgate_records_stored_total").inc(7)
    again = restarted(exposition)
    assert again.value(REQUESTS, *LABELS) == 15, "before anyone is back"
    again.update("lives", [*counters.totals(), *requests(6)])
    again.settle()
    assert again.value(REQUESTS, *LABELS) == 16
    assert again.value("headgate_request_duration_seconds", "chat") == 3
    assert again.value("headgate_connections_open") == 9, "gauges are those of the living"
    assert again.value("headgate_records_stored_total") == 0, "what the controller itself counts starts anew"


def test_of_very_many_workers_none_is_folded_before_it_could_be_back() -> None:
    exposition = Exposition()
    names = [str(number) for number in range(GONE_MAX * 3)]
    for name in names:
        exposition.update(name, requests(1))
    again = restarted(exposition)
    for name in names[1:]:
        again.update("new", requests(1))
        again.retire("new")
        again.update(name, requests(2))
    again.settle()
    assert again.value(REQUESTS, *LABELS) == 1 + 1 + 2 * (len(names) - 1)
    for name in names:
        again.retire(name)
    assert len(again._gone) == GONE_MAX
    assert again.value(REQUESTS, *LABELS) == 1 + 1 + 2 * (len(names) - 1)


def test_a_dead_workers_counts_stay_and_its_gauges_vanish() -> None:
    exposition = Exposition()
    counters = Counters()
    counters.counter("headgate_connections_open").value = 9
    counters.counter(REQUESTS, *LABELS).inc(5)
    counters.histogram("headgate_request_duration_seconds", "chat").observe(SECONDS[3])
    exposition.update("a", counters.totals())
    exposition.update("b", counters.totals())
    assert exposition.value("headgate_connections_open") == 18
    exposition.retire("a")
    exposition.retire("a")
    exposition.retire("never heard of")
    assert exposition.value("headgate_connections_open") == 9
    assert exposition.value(REQUESTS, *LABELS) == 10
    assert exposition.value("headgate_request_duration_seconds", "chat") == 2
    exposition.retire("b")
    assert ("headgate_connections_open", ()) not in samples(exposition)


def test_a_worker_that_was_only_cut_off_is_not_counted_twice() -> None:
    exposition = Exposition()
    exposition.update("a", requests(5))
    exposition.retire("a")
    exposition.update("a", requests(7))
    assert exposition.value(REQUESTS, *LABELS) == 7


def test_the_many_dead_are_folded_together() -> None:
    exposition = Exposition()
    for number in range(GONE_MAX * 3):
        exposition.update(str(number), requests(1))
        exposition.retire(str(number))
        assert exposition.value(REQUESTS, *LABELS) == number + 1
    assert len(exposition._gone) == GONE_MAX


@given(
    st.lists(
        st.tuples(st.sampled_from(["grow", "retire", "restart"]), st.integers(0, GONE_MAX + 3)),
        max_size=200,
    )
)
def test_no_counter_ever_goes_back(steps: list[tuple[str, int]]) -> None:
    exposition = Exposition()
    counts: dict[str, int] = {}
    total = 0
    for step, number in steps:
        name = str(number)
        if step == "grow":
            counts[name] = counts.get(name, 0) + 1
            exposition.update(name, requests(counts[name]))
            total += 1
        elif step == "retire":
            exposition.retire(name)
        else:
            exposition = restarted(exposition)
        assert exposition.value(REQUESTS, *LABELS) == total


def test_what_a_newer_worker_sends_is_ignored_and_counted() -> None:
    exposition = Exposition()
    strange = [
        Sample("headgate_new_total", ("a",), 1),
        Sample(REQUESTS, ("one label",), 1),
        Sample(REQUESTS, LABELS, 1, (1, 2)),
        Sample("headgate_request_duration_seconds", ("chat",), 1, (1, 2, 3)),
        Sample("headgate_request_duration_seconds", ("chat",), 1),
    ]
    exposition.update("a", [*strange, *requests(5)])
    found = samples(exposition)
    assert found["headgate_metrics_ignored_total", ()] == len(strange)
    assert exposition.value(REQUESTS, *LABELS) == 5
    assert not [name for name, _ in found if "new" in name]


def test_the_controllers_own_metrics() -> None:
    exposition = Exposition()
    exposition.counter("headgate_policy_reloads_total", "ok").inc()
    exposition.counter("headgate_policy_reloads_total", "ok").inc()
    exposition.counter("headgate_workers").value = 2
    exposition.histogram("headgate_probe_seconds", "small").observe(0.1)
    exposition.counter("headgate_records_dropped_total", "store").inc(3)
    exposition.update("a", [Sample("headgate_records_dropped_total", ("store",), 4)])
    found = samples(exposition)
    assert found["headgate_policy_reloads_total", (("result", "ok"),)] == 2
    assert found["headgate_workers", ()] == 2
    assert found["headgate_probe_seconds_count", (("backend", "small"),)] == 1
    assert found["headgate_records_dropped_total", (("why", "store"),)] == 7, "both planes count it"
    with pytest.raises(KeyError):
        exposition.counter("headgate_no_such_total")
    with pytest.raises(ValueError, match="labels"):
        exposition.counter("headgate_workers", "x")


def test_a_gauge_is_set_as_a_whole() -> None:
    exposition = Exposition()
    exposition.set_gauges("headgate_policy_info", {("v1",): 1})
    exposition.set_gauges("headgate_policy_info", {("v2",): 1})
    assert [labels for (name, labels) in samples(exposition) if name == "headgate_policy_info"] == [(("version", "v2"),)]
    for name, values in (("headgate_workers", {("x",): 1.0}), (REQUESTS, {LABELS: 1.0})):
        with pytest.raises(ValueError, match=name):
            exposition.set_gauges(name, values)


def test_two_expositions_share_nothing() -> None:
    one, other = Exposition(), Exposition()
    one.counter("headgate_workers").value = 5
    assert other.value("headgate_workers") == 0


def test_the_reference_has_a_row_for_every_metric() -> None:
    rows = markdown().splitlines()[2:]
    assert len(rows) == len(CATALOG)
    for metric, row in zip(CATALOG, rows, strict=True):
        assert row.startswith(f"| `{metric.name}` | {metric.kind} | ")
        assert all(f"`{label}`" in row for label in metric.labels)
        assert row.count("|") == 5


def test_names_and_labels_keep_the_conventions() -> None:
    for metric in CATALOG:
        assert metric.name.startswith("headgate_")
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name
        if metric.kind == "histogram":
            assert metric.name.endswith("_seconds")
            assert list(metric.buckets) == sorted(set(metric.buckets))
    assert len({metric.name for metric in CATALOG}) == len(CATALOG)
