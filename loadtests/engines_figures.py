"""Figures of `loadtests.engines`: counts with the range they leave open, what must not be, the table and the picture."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtests.drawing import new_figure, save
from loadtests.engines_asked import Reply, own

NORMAL_95 = 1.959964
"""Standard deviations of a normal distribution that hold 95 %."""
SERVED = {
    "specialist": {"primary"},
    "generalist": {"primary"},
    "guard": {"primary", "ood"},
    "cascade": {"primary", "low_confidence"},
    "both": {"primary", "ood", "low_confidence"},
    "energy": {"primary", "ood", "low_confidence"},
}
"""By set-up: the reasons that an answer may have there. Another one, such as failover, says that something went wrong."""
MARKS = {"specialist": "s", "generalist": "D", "guard": "^", "cascade": "o", "both": "*", "energy": "P"}


def wilson(count: int, of: int) -> tuple[float, float]:
    """The range of a share that a count leaves open, at 95 % (Wilson 1927, the score test turned round)."""
    if not of:
        return 0.0, 1.0
    share, square = count / of, NORMAL_95**2
    middle = share + square / (2 * of)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    scale = 1 + square / of
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def share(replies: Iterable[Reply], holds: Callable[[Reply], bool]) -> dict[str, float]:
    """The share of the replies for which it holds, with its range."""
    flags = [holds(reply) for reply in replies]
    low, high = wilson(sum(flags), len(flags))
    return {"share": round(sum(flags) / len(flags), 4) if flags else 0.0, "low": round(low, 4), "high": round(high, 4)}


def figures(replies: Sequence[Reply]) -> dict[str, Any]:
    """Of one set-up."""
    return {
        "requests": len(replies),
        "accuracy": share(replies, lambda reply: reply.right),
        "accuracy_of_tickets": share(filter(own, replies), lambda reply: reply.right),
        "accuracy_of_others": share((reply for reply in replies if not own(reply)), lambda reply: reply.right),
        "sent_on_by_guard": share(replies, lambda reply: reply.reason == "ood"),
        "deferred": share(replies, lambda reply: reply.reason == "low_confidence"),
        "by_generalist": share(replies, lambda reply: reply.backend == "generalist"),
        "reasons": dict(Counter(reply.reason for reply in replies)),
        "failed": sum(bool(reply.failed) for reply in replies),
        "failures": sorted({reply.failed for reply in replies if reply.failed})[:3],
        "leaked": sum(reply.leaked for reply in replies),
    }


def missed(set_ups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What must not be, in words."""
    found = []
    for name, row in set_ups.items():
        if row["failed"]:
            found.append(f"{name}: {row['failed']} requests failed: {'; '.join(row['failures'])}")
        if row["leaked"]:
            found.append(f"{name}: {row['leaked']} answers had log-probabilities that nobody asked for")
        if strange := set(row["reasons"]) - SERVED[name] - {""}:
            found.append(f"{name}: answers for the reasons {', '.join(sorted(strange))}")
    accuracy = {name: row["accuracy"]["share"] for name, row in set_ups.items()}
    for name in [each for each in accuracy if each not in ("specialist", "generalist")]:
        if accuracy[name] <= accuracy["specialist"]:
            found.append(f"{name}: no better than the specialist alone, {accuracy[name]:.1%} against {accuracy['specialist']:.1%}")
        if set_ups[name]["by_generalist"]["share"] >= 1:
            found.append(f"{name}: everything went to the generalist")
    return found


def percent(found: Mapping[str, float]) -> str:
    """A share with its range."""
    return f"{100 * found['share']:.1f} % ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def table(found: Mapping[str, Any]) -> str:
    """Markdown, a table an engine."""
    parts = []
    for engine, row in found["engines"].items():
        if why := row.get("skipped"):
            parts.append(f"{engine}: skipped: {why}")
            continue
        head = ["set-up", "right", "of tickets", "of others", "sent on by the guard", "deferred", "answered by the generalist"]
        lines = [f"{engine}, {next(iter(row['set_ups'].values()))['requests']} requests", "", _row(head), _row(["---"] * len(head))]
        names = ("accuracy", "accuracy_of_tickets", "accuracy_of_others", "sent_on_by_guard", "deferred", "by_generalist")
        lines += [_row([name, *(percent(each[key]) for key in names)]) for name, each in row["set_ups"].items()]
        for name, made in row["calibrations"].items():
            lines.append(f"calibration of {name}: {_said(made)}")
        parts.append("\n".join([*lines, *(f"MISSED  {each}" for each in row["missed"])]))
    return "\n\n".join(parts)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _said(made: Mapping[str, Any]) -> str:
    if not made["enabled"]:
        return f"disabled: {made['promise']}"
    return f"{made['rows']} lines, deferred {made['deferred']:.1%}, loss {made['loss']:.2%} (promised at most {made['epsilon']:.0%})"


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Accuracy against the share that the generalist answers, an engine beside the other. The line joins the two models alone: on it
    lies what sends a random share to the generalist."""
    engines = {name: row["set_ups"] for name, row in found["engines"].items() if "set_ups" in row}
    figure = new_figure(1 + 3.2 * len(engines), 4)
    for axes, (engine, set_ups) in zip(figure.subplots(1, len(engines), sharey=True, squeeze=False)[0], engines.items(), strict=True):
        points = {name: (row["by_generalist"]["share"], row["accuracy"]) for name, row in set_ups.items()}
        ends = [points[name] for name in ("specialist", "generalist")]
        axes.plot([100 * x for x, _ in ends], [100 * y["share"] for _, y in ends], color="0.7", linestyle="--", zorder=1)
        for name, (x, y) in points.items():
            below, above = 100 * (y["share"] - y["low"]), 100 * (y["high"] - y["share"])
            size = 11 if name == "both" else 7
            marked = {"fmt": MARKS[name], "color": f"C{list(MARKS).index(name)}", "markersize": size, "capsize": 3, "label": name}
            axes.errorbar(100 * x, 100 * y["share"], yerr=[[below], [above]], **marked)
        axes.set_title(engine)
        axes.set_xlabel("answered by the generalist, %")
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
    axes = figure.axes[0]
    axes.set_ylabel("right answers, %")
    named = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=len(named), frameon=False)
    save(figure, path)
