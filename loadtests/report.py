"""Rounds to figures: medians with their range, what is added to the direct way, ratios to peers, and the goals."""

from __future__ import annotations

import statistics
import tomllib
from pathlib import Path
from typing import TypeAlias

import msgspec

from loadtests.measure import Round

BUDGETS = Path(__file__).parent / "budgets.toml"
Figures: TypeAlias = dict[str, dict[str, float]]
"""By name: median, min, max, and for Headgate the ratio to each peer."""


class Results:
    """Every round of a run."""

    def __init__(self, about: dict[str, object]) -> None:
        self.about = about
        self.skipped: dict[str, str] = {}
        self.void: list[str] = []
        self.rounds: dict[str, dict[str, list[Round]]] = {}

    def add(self, scenario: str, subject: str, found: Round) -> None:
        """In the order of measuring, so that the rounds of two subjects pair up by their place."""
        self.rounds.setdefault(scenario, {}).setdefault(subject, []).append(found)
        if found.void:
            self.void.append(f"{subject}: {scenario}: {found.void}")

    def added(self, scenario: str, subject: str) -> list[dict[str, float] | None]:
        """The figures of each round with what is `added` to the direct way's delays; None where the round is void."""
        direct = self.rounds[scenario].get("direct", [])
        found: list[dict[str, float] | None] = []
        for place, each in enumerate(self.rounds[scenario].get(subject, [])):
            figures = dict(each.figures)
            if place < len(direct) and not direct[place].void:
                for name, value in direct[place].figures.items():
                    if name.endswith("_us") and name != "us" and name in figures:
                        figures[f"added_{name}"] = figures[name] - value
            found.append(None if each.void else figures)
        return found

    def ratio(self, scenario: str, figure: str, peer: str) -> float | None:
        """Headgate's to a peer's: the median over rounds that both have."""
        ours, theirs = self.added(scenario, "headgate"), self.added(scenario, peer)
        pairs = [(a[figure], b[figure]) for a, b in zip(ours, theirs, strict=False) if a and b and figure in a and b.get(figure, 0) > 0]
        return statistics.median(a / b for a, b in pairs) if pairs else None

    def summary(self) -> dict[str, dict[str, Figures]]:
        """Scenario -> subject -> figure."""
        made: dict[str, dict[str, Figures]] = {}
        for scenario, subjects in self.rounds.items():
            for subject in subjects:
                rounds = [each for each in self.added(scenario, subject) if each is not None]
                row: Figures = {}
                for name in sorted(set().union(*rounds)):
                    values = [each[name] for each in rounds if name in each]
                    row[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
                    if subject == "headgate":
                        found = {peer: self.ratio(scenario, name, peer) for peer in subjects if peer not in ("headgate", "direct")}
                        row[name] |= {f"to_{peer}": ratio for peer, ratio in found.items() if ratio is not None}
                made.setdefault(scenario, {})[subject] = row
        return made


COLUMNS = (
    ("us", "CPU us"),
    ("worker_us", "worker"),
    ("controller_us", "contr."),
    ("added_latency_p50_us", "+p50 us"),
    ("added_latency_p95_us", "+p95"),
    ("added_latency_p99_us", "+p99"),
    ("added_first_event_p50_us", "+first"),
    ("added_delay_p99_us", "+chunk p99"),
    ("kib_per_stream", "KiB/stream"),
    ("idle_mib", "idle MiB"),
)


def table(summary: dict[str, dict[str, Figures]]) -> str:
    """For people: medians, and how many times each peer's CPU Headgate's is."""
    lines = []
    for scenario, subjects in summary.items():
        lines.append("")
        lines.append(f"{scenario:16}" + "".join(f"{head:>12}" for _, head in COLUMNS) + "   (a request, or a chunk where streamed)")
        for subject, row in subjects.items():
            cells = (f"{row[name]['median']:12.1f}" if name in row else f"{'-':>12}" for name, _ in COLUMNS)
            ratios = {name[3:]: value for name, value in row.get("us", {}).items() if name.startswith("to_")}
            told = "  CPU = " + ", ".join(f"{value:.3g} x {peer}" for peer, value in ratios.items()) if ratios else ""
            lines.append(f"  {subject:14}" + "".join(cells) + ("" if row else "   void") + told)
    return "\n".join(lines)


class Goal(msgspec.Struct, forbid_unknown_fields=True):
    """One entry of `budgets.toml`."""

    name: str
    scenario: str
    figure: str
    us_at_most: float | None = None
    at_most: float | None = None
    ratios: dict[str, float] = {}
    over: str | None = None
    """The scenario whose figure is taken off, round by round."""


class Verdict(msgspec.Struct):
    """A goal, or one of its ratios, held against a run. `found` is None where the run does not tell."""

    name: str
    found: float | None
    goal: float
    checked: bool

    @property
    def missed(self) -> bool:
        return self.checked and self.found is not None and self.found > self.goal

    def line(self) -> str:
        if self.found is None:
            return f"not measured  {self.name} (goal {self.goal:g})"
        met = self.found <= self.goal
        word = ("met" if met else "MISSED") if self.checked else ("shown, met" if met else "shown, missed")
        return f"{word:13} {self.name}: {self.found:.3g} (goal {self.goal:g})"


def goals() -> list[Goal]:
    """What is promised; raises msgspec.ValidationError for a file that is not as it should be."""
    return msgspec.convert(tomllib.loads(BUDGETS.read_text(encoding="utf-8"))["goal"], list[Goal])


def figures(results: Results, goal: Goal) -> list[float]:
    """A goal's figure in each round of Headgate's; with `over`, how much more it is than in the same round of that scenario."""
    if goal.scenario not in results.rounds or (goal.over is not None and goal.over not in results.rounds):
        return []
    rounds = results.added(goal.scenario, "headgate")
    bases = results.added(goal.over, "headgate") if goal.over is not None else [{goal.figure: 0.0}] * len(rounds)
    pairs = [(each, base) for each, base in zip(rounds, bases, strict=False) if each and base]
    return [each[goal.figure] - base[goal.figure] for each, base in pairs if goal.figure in each and goal.figure in base]


def check(results: Results) -> list[Verdict]:
    """Every goal held against a run: ratios and sizes count, microseconds are shown."""
    verdicts = []
    for goal in goals():
        values = figures(results, goal)
        median = statistics.median(values) if values else None
        if goal.us_at_most is not None:
            verdicts.append(Verdict(f"{goal.name}, us", median, goal.us_at_most, False))
        if goal.at_most is not None:
            verdicts.append(Verdict(goal.name, median, goal.at_most, True))
        for peer, ratio in goal.ratios.items():
            found = results.ratio(goal.scenario, goal.figure, peer) if goal.scenario in results.rounds else None
            verdicts.append(Verdict(f"{goal.name}, x {peer}", found, ratio, True))
    return verdicts
