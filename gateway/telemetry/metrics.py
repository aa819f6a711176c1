"""Prometheus exposition, in the controller: the workers' counts and its own, merged into one number a series."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gateway.telemetry.catalog import CATALOG, Metric
from gateway.telemetry.counters import SERIES_MAX, Counter, Counters, Histogram
from gateway.telemetry.sample import Sample

GONE_MAX = 64
"""Incarnations that have gone but are still told apart, in case one was only cut off and comes back. Older ones are folded
into the base."""

Labels = tuple[str, ...]
Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class _Series(msgspec.Struct):
    """The sum of one series over all that count it. `buckets` are not cumulative, the last one is open."""

    value: float = 0.0
    buckets: list[int] = []

    def add(self, value: float, buckets: Sequence[int]) -> None:
        self.value += value
        if buckets:
            self.buckets = [a + b for a, b in zip(self.buckets, buckets, strict=True)] if self.buckets else list(buckets)


Key = tuple[str, Labels]
_Sums = dict[Key, _Series]


class Counted(msgspec.Struct, frozen=True):
    """What workers have counted, as a restarted controller takes it over. `run` names one life of the whole gateway: what another
    one counted is not taken over."""

    run: str
    workers: dict[str, list[Sample]]
    """By incarnation."""
    base: list[Sample]


class Exposition(Collector):
    """Merges cumulative samples. Each incarnation of a worker overwrites its own, so that a repeated or a lost message changes
    nothing; what a dead one counted stays, so that no counter goes back, not even where the controller itself is started again
    (`checkpoint`, `restore`); gauges are those of the living alone.

    It is a collector on a registry of its own and belongs to the event loop's thread.
    """

    def __init__(self) -> None:
        self._metrics = {metric.name: metric for metric in CATALOG}
        self._own = Counters()
        self._gauges: dict[str, dict[Labels, float]] = {}
        self._live: dict[str, dict[Key, Sample]] = {}
        self._gone: dict[str, list[Sample]] = {}
        self._restored = 0
        """Of the gone, those that may well be back in a moment."""
        self._base: _Sums = {}
        self._ignored = self._own.counter("headgate_metrics_ignored_total")
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def counter(self, name: str, *labels: str) -> Counter:
        """The controller's own counter (`inc`) or gauge (set `value`)."""
        return self._own.counter(name, *labels)

    def histogram(self, name: str, *labels: str) -> Histogram:
        """The controller's own histogram."""
        return self._own.histogram(name, *labels)

    def set_gauges(self, name: str, values: Mapping[Labels, float]) -> None:
        """All series of a gauge at once: one that is not in `values` vanishes (the policy version before, a resolved alert)."""
        metric = self._metrics[name]
        if metric.kind != "gauge" or any(len(labels) != len(metric.labels) for labels in values):
            raise ValueError(f"{name} is a {metric.kind} with the labels {metric.labels}")
        self._gauges[name] = dict(values)

    def update(self, incarnation: str, samples: Iterable[Sample]) -> None:
        """Take a worker's totals: all at first, then those that changed. What this catalog does not know, or knows with another
        shape, is ignored and counted."""
        known = {(sample.metric, sample.labels): sample for sample in samples if self._knows(sample)}
        self._gone.pop(incarnation, None)  # it was only cut off
        self._live.setdefault(incarnation, {}).update(known)

    def retire(self, incarnation: str) -> None:
        """A worker is gone: its gauges vanish, its counts stay. Called again, or for one never heard of, it does nothing."""
        samples = self._live.pop(incarnation, None)
        if samples is None:
            return
        self._gone[incarnation] = self._lasting(samples.values())
        self._fold()

    def checkpoint(self, run: str) -> Counted:
        """What the workers have counted so far in this life of the gateway."""
        live = {incarnation: self._lasting(samples.values()) for incarnation, samples in self._live.items()}
        base = [Sample(name, labels, series.value, tuple(series.buckets)) for (name, labels), series in self._base.items()]
        return Counted(run, {**self._gone, **live}, base)

    def restore(self, counted: Counted) -> None:
        """Take over from the controller before. Its workers count as gone until they are back."""
        _add(self._base, filter(self._knows, counted.base))
        self._gone = {incarnation: [*filter(self._knows, samples)] for incarnation, samples in counted.workers.items()}
        self._restored = len(self._gone)

    def settle(self) -> None:
        """Those that were restored and are not back by now are gone for good."""
        self._restored = 0
        self._fold()

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The body and its content type, in the form that the `accept` header asks for: Prometheus text or OpenMetrics."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Family]:
        """One family for each metric that has a series, in the catalog's order."""
        families: dict[str, list[tuple[Labels, _Series]]] = {}
        for (name, labels), series in self._sums().items():
            families.setdefault(name, []).append((labels, series))
        for name, metric in self._metrics.items():
            if name in families:
                yield _family(metric, sorted(families[name], key=lambda entry: entry[0]))

    def value(self, name: str, *labels: str) -> float:
        """The merged value of one series, 0 where there is none; of a histogram the number of observations."""
        series = self._sums().get((name, labels), _Series())
        return sum(series.buckets) if series.buckets else series.value

    def values(self, name: str) -> dict[Labels, float]:
        """The merged value of every series of a counter or gauge."""
        return {labels: series.value for (metric, labels), series in self._sums().items() if metric == name}

    def _lasting(self, samples: Iterable[Sample]) -> list[Sample]:
        return [sample for sample in samples if self._metrics[sample.metric].kind != "gauge"]

    def _fold(self) -> None:
        while len(self._gone) > GONE_MAX + self._restored:
            _add(self._base, self._gone.pop(next(iter(self._gone))))

    def _knows(self, sample: Sample) -> bool:
        metric = self._metrics.get(sample.metric)
        buckets = 0 if metric is None or metric.kind != "histogram" else len(metric.buckets) + 1
        known = metric is not None and len(sample.labels) == len(metric.labels) and len(sample.buckets) == buckets
        if not known:
            self._ignored.inc()
        return known

    def _sums(self) -> _Sums:
        sums: _Sums = {key: _Series(series.value, series.buckets) for key, series in self._base.items()}
        live = (samples.values() for samples in self._live.values())
        for samples in (*self._gone.values(), *live, self._own.totals()):
            _add(sums, samples)
        for name, values in self._gauges.items():
            for labels, value in values.items():
                sums[name, labels] = _Series(value)
        return sums


def _add(sums: _Sums, samples: Iterable[Sample]) -> None:
    for sample in samples:
        key = (sample.metric, sample.labels)
        series = sums.get(key)
        if series is None:
            if len(sums) >= SERIES_MAX:
                continue
            series = sums[key] = _Series()
        series.add(sample.value, sample.buckets)


def _family(metric: Metric, entries: Sequence[tuple[Labels, _Series]]) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        bounds = [*map(_bound, metric.buckets), "+Inf"]
        for labels, series in entries:
            total = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip(bounds, series.buckets, strict=True):
                total += count
                buckets.append((bound, total))
            histogram.add_metric(labels, buckets, series.value)
        return histogram
    family = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(metric.name, metric.help, labels=metric.labels)
    for labels, series in entries:
        family.add_metric(labels, series.value)
    return family


def _bound(bound: float) -> str:
    """As Prometheus writes it: never `5e-05`, which some readers take for another bucket."""
    text = f"{bound:.10f}".rstrip("0")
    return text + "0" if text.endswith(".") else text
