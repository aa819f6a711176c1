"""What a worker counts, in plain integers: no lock, no label lookup and no Prometheus client on the hot path.

A child (one metric with one set of labels) is resolved once, when a policy is prepared, and then incremented. `totals()` gives
cumulative values: sending them twice, or after a gap, changes nothing, so a restarted controller loses no count.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, final

from gateway.telemetry.catalog import CATALOG, Metric
from gateway.telemetry.sample import Sample

SERIES_MAX: Final = 20_000
"""Children of one worker. Labels come from the policy file alone, so this is a fuse, not a working limit."""


@final
class Counter:
    """A child that only grows (or, for a gauge, is set)."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Grow. On the hot path `value += 1` says the same without a call."""
        self.value += amount


@final
class Histogram:
    """A child that counts observations into the fixed buckets of its metric."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count `value` in the first bucket whose bound is not below it."""
        # By halves, written out: compiled, `bisect` costs four times as much in the call alone.
        bounds = self.bounds
        low, high = 0, len(bounds)
        while low < high:
            middle = (low + high) >> 1
            if bounds[middle] < value:
                low = middle + 1
            else:
                high = middle
        self.counts[low] += 1
        self.sum += value


@final
class Counters:
    """Every child of one worker process."""

    def __init__(self, catalog: Iterable[Metric] = CATALOG) -> None:
        self._metrics = {metric.name: metric for metric in catalog}
        self._children: dict[tuple[str, tuple[str, ...]], Counter | Histogram] = {}

    def counter(self, name: str, *labels: str) -> Counter:
        """The child of counter or gauge `name` with these label values, in the order of the catalog."""
        child = self._child(name, labels)
        if not isinstance(child, Counter):
            raise TypeError(f"{name} is a histogram")
        return child

    def histogram(self, name: str, *labels: str) -> Histogram:
        """The child of histogram `name` with these label values, in the order of the catalog."""
        child = self._child(name, labels)
        if not isinstance(child, Histogram):
            raise TypeError(f"{name} is not a histogram")
        return child

    def _child(self, name: str, labels: tuple[str, ...]) -> Counter | Histogram:
        key = (name, labels)
        child = self._children.get(key)
        if child is None:
            metric = self._metrics[name]
            if len(labels) != len(metric.labels):
                raise ValueError(f"{name} takes the labels {metric.labels}, not {labels}")
            child = Histogram(metric.buckets) if metric.kind == "histogram" else Counter()
            if len(self._children) < SERIES_MAX:
                self._children[key] = child
        return child

    def totals(self) -> list[Sample]:
        """Cumulative values of every child, in the order of their making."""
        return [
            Sample(name, labels, child.sum, tuple(child.counts)) if isinstance(child, Histogram) else Sample(name, labels, child.value)
            for (name, labels), child in self._children.items()
        ]
