"""The page about metrics, made from the catalog: documentation cannot drift from what is exported."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.telemetry.catalog import CATALOG, Metric


def markdown(catalog: Iterable[Metric] = CATALOG) -> str:
    """A table of every metric: name, type, labels, meaning."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in catalog:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"
