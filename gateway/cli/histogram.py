"""A histogram as SVG: what two groups scored, and where the threshold is. By hand, so that the base install can draw it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

BINS = 48
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 720, 300, 16, 44, 40


class Group(NamedTuple):
    """Values that share a colour and a name in the legend."""

    name: str
    colour: str
    values: Sequence[float]


def histogram(title: str, groups: Sequence[Group], mark: float) -> str:
    """The SVG. Each group's bars are shares of that group; `mark` is drawn as a line. Groups may be empty."""
    values = [value for group in groups for value in group.values] or [mark]
    low, high = min(*values, mark), max(*values, mark)
    span = (high - low) or 1.0
    shares = [_shares(group.values, low, span) for group in groups]
    tallest = max((share for row in shares for share in row), default=0) or 1.0
    wide, tall = (_WIDTH - 2 * _LEFT) / BINS, _HEIGHT - _TOP - _BOTTOM
    base = _HEIGHT - _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/><text x="{_LEFT}" y="18" font-size="14">{escape(title)}</text>',
    ]
    for number, (group, row) in enumerate(zip(groups, shares, strict=True)):
        bars = [_bar(_LEFT + at * wide, base, wide, share / tallest * tall) for at, share in enumerate(row) if share]
        parts.append(f'<g fill="{group.colour}" fill-opacity="0.55">{"".join(bars)}</g>')
        parts.append(f'<rect x="{_LEFT + number * 260}" y="26" width="10" height="10" fill="{group.colour}" fill-opacity="0.55"/>')
        parts.append(f'<text x="{_LEFT + 14 + number * 260}" y="35">{escape(group.name)} ({len(group.values)})</text>')
    at = _LEFT + (mark - low) / span * (_WIDTH - 2 * _LEFT)
    parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _LEFT}" y1="{base}" y2="{base}" stroke="black"/>')
    parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{base}" stroke="black" stroke-dasharray="4 3"/>')
    anchor = "start" if at < _WIDTH / 2 else "end"
    parts.append(f'<text x="{at:.1f}" y="{base + 28}" text-anchor="{anchor}">threshold {mark:.4g}</text>')
    parts.append(f'<text x="{_LEFT}" y="{base + 14}">{low:.4g}</text>')
    parts.append(f'<text x="{_WIDTH - _LEFT}" y="{base + 14}" text-anchor="end">{high:.4g}</text></svg>')
    return "\n".join(parts) + "\n"


def _bar(x: float, base: float, width: float, height: float) -> str:
    return f'<rect x="{x:.1f}" y="{base - height:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _shares(values: Sequence[float], low: float, span: float) -> list[float]:
    counts = [0] * BINS
    for value in values:
        counts[min(int((value - low) / span * BINS), BINS - 1)] += 1
    return [count / len(values) for count in counts] if values else [0.0] * BINS
