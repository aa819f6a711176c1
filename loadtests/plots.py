"""Draws a run of `loadtests.run`: `python -m loadtests.run ... --output json > RUN.json; python -m loadtests.plots RUN.json`.

A picture of CPU time by subject, a panel a scenario (docs/images/peers.png; `--into` names another). Headgate's bars are cut into worker
and controller. Thin lines are from the least to the most of the rounds, dashed ones the goals in times nginx. A bar that is much longer
than Headgate's is broken off, and its number said.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from loadtests import drawing, report

INTO = Path(__file__).parent.parent / "docs/images/peers.png"
PANELS = (
    ("request-32", "us", "a request, 32 at once: us of CPU"),
    ("prompt-32k", "us", "a request with a 32 KB prompt: us of CPU"),
    ("stream-256", "us", "a chunk, 256 streams: us of CPU"),
    ("stream-1000", "us", "a chunk, 1,000 streams: us of CPU"),
    ("burst", "us", "an event, 16 in a read: us of CPU"),
    ("memory", "kib_per_stream", "an open stream: KiB"),
)
"""Scenario, figure, title."""
BROKEN_OFF = 7.0
"""Times Headgate's: beyond it a bar is broken off."""
COLORS = {"worker": "C0", "controller": "C1", "other": "C2", "headgate": "C0", "peer": "0.7"}


class Bar(msgspec.Struct):
    """One subject's figure: in parts (worker, controller, other; or one of all of it), which add up to the median."""

    subject: str
    parts: dict[str, float]
    low: float
    high: float

    @property
    def length(self) -> float:
        return sum(self.parts.values())


class Panel(msgspec.Struct):
    """One scenario. `until`: where the axis ends; `goal`: where Headgate should be, None where there is none beside nginx."""

    title: str
    bars: list[Bar]
    until: float
    goal: float | None = None


def bar(subject: str, row: Mapping[str, Mapping[str, float]], figure: str) -> Bar:
    """Medians of the parts, brought to add up to the median of the whole."""
    whole = row[figure]
    found = {role: row[name]["median"] for role in ("worker", "controller", "other") if (name := f"{role}_{figure}") in row}
    if "worker" in found and len(found) == 1:  # of memory the worker's part alone is known
        found["other"] = max(0.0, whole["median"] - found["worker"])
    scale = whole["median"] / total if (total := sum(found.values())) else 0.0
    parts = {role: value * scale for role, value in found.items() if value} if scale else {}
    parts = parts or {"headgate" if subject == "headgate" else "peer": whole["median"]}
    return Bar(subject, parts, whole["min"], whole["max"])


def panels(found: Mapping[str, Any]) -> list[Panel]:
    """What there is to draw, in the order of PANELS. Scenarios that were not measured, or not on Headgate, are left out."""
    goals = {(goal.scenario, goal.figure): goal.ratios["nginx"] for goal in report.goals() if "nginx" in goal.ratios}
    made = []
    for scenario, figure, title in PANELS:
        subjects = {name: row for name, row in found["scenarios"].get(scenario, {}).items() if figure in row}
        if "headgate" not in subjects:
            continue
        bars = sorted((bar(name, row, figure) for name, row in subjects.items()), key=lambda each: each.length)
        ours = subjects["headgate"][figure]["median"]
        until = 1.3 * max(each.high for each in bars if each.length <= BROKEN_OFF * ours)
        times, nginx = goals.get((scenario, figure)), subjects.get("nginx")
        goal = times * nginx[figure]["median"] if times and nginx else None
        made.append(Panel(title, bars, max(until, 1.1 * (goal or 0.0)), goal))
    return made


def draw(found: Mapping[str, Any], path: Path) -> None:
    """All panels, two in a row."""
    made = panels(found)
    figure = drawing.new_figure(10, 0.6 + 1.9 * -(-len(made) // 2))
    for axes, panel in zip(figure.subplots(-(-len(made) // 2), 2, squeeze=False).flat, made, strict=False):
        for each in panel.bars:
            left = 0.0
            for role, length in each.parts.items():
                axes.barh(each.subject, length, left=left, color=COLORS[role], label=role if role != "peer" else None)
                left += length
            is_broken = each.length > panel.until
            if not is_broken and each.high > each.low:
                axes.plot([each.low, each.high], [each.subject] * 2, color="black", linewidth=1)
            end = panel.until * 0.98 if is_broken else max(each.length, each.high) + panel.until * 0.012
            text = (f"{each.length:,.0f}" if each.length >= 100 else f"{each.length:.1f}") + (" >>" if is_broken else "")
            axes.text(end, each.subject, text, va="center", ha="right" if is_broken else "left", fontsize=9)
        if panel.goal is not None:
            axes.axvline(panel.goal, color="C3", linestyle="--", linewidth=1, label="goal beside nginx")
        axes.set_xlim(0, panel.until)
        axes.set_title(panel.title, fontsize=10)
        axes.tick_params(labelsize=9)
        axes.invert_yaxis()
    for axes in figure.axes[len(made) :]:
        axes.set_visible(False)
    named = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if named:
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=len(named), frameon=False)
    drawing.save(figure, path)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="JSON that `loadtests.run --output json` has printed")
    parser.add_argument("--into", type=Path, default=INTO)
    args = parser.parse_args(argv)
    try:
        found = json.loads(args.run.read_text())
    except (OSError, ValueError) as error:
        parser.error(f"{args.run} is not what a run has printed: {error}")
    if not panels(found):
        parser.error(f"{args.run} has none of the scenarios {', '.join(name for name, *_ in PANELS)} for Headgate")
    drawing.must_draw(parser, "drawing")
    draw(found, args.into)
    print(args.into)
    return 0


if __name__ == "__main__":
    sys.exit(main())
