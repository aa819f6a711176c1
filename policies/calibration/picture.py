"""The cost-quality curve of a calibration, for people: JSON, SVG, and PNG where matplotlib is installed."""

from __future__ import annotations

from importlib import import_module
from io import BytesIO
from typing import Any

import msgspec

from policies.calibrated import Calibration, Point

WIDTH, HEIGHT, EDGE = 640, 400, 60


def as_json(calibration: Calibration) -> bytes:
    """The points, what was chosen, and the names of the axes."""
    return msgspec.json.format(
        msgspec.json.encode(
            {
                "epsilon": calibration.epsilon,
                "chosen": chosen(calibration),
                "points": calibration.curve,
            }
        ),
        indent=1,
    )


def chosen(calibration: Calibration) -> Point | None:
    """The point that is in force, None where the cascade is disabled."""
    if not calibration.enabled or calibration.threshold is None:
        return None
    return Point(calibration.threshold, calibration.deferred.estimate, calibration.loss.estimate, calibration.saving.estimate)


def as_svg(calibration: Calibration) -> str:
    """Loss of quality against saving, epsilon as a line, the chosen threshold as a dot."""
    points = calibration.curve
    savings = [point.saving for point in points] or [0.0]
    losses = [100 * point.loss for point in points] + [0.0, 200 * calibration.epsilon]
    left, right = min(savings), max(max(savings), min(savings) + 1e-9)
    low, high = min(losses), max(losses)

    def x(saving: float) -> float:
        return EDGE + (saving - left) / (right - left) * (WIDTH - 2 * EDGE)

    def y(loss: float) -> float:
        return HEIGHT - EDGE - (loss - low) / (high - low) * (HEIGHT - 2 * EDGE)

    path = " ".join(f"{x(point.saving):.1f},{y(100 * point.loss):.1f}" for point in points)
    line = y(100 * calibration.epsilon)
    dot = chosen(calibration)
    mark = f'<circle cx="{x(dot.saving):.1f}" cy="{y(100 * dot.loss):.1f}" r="5" fill="#c33"/>' if dot is not None else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<line x1="{EDGE}" y1="{line:.1f}" x2="{WIDTH - EDGE}" y2="{line:.1f}" stroke="#999" stroke-dasharray="4"/>'
        f'<text x="{EDGE}" y="{line - 5:.1f}" fill="#666">epsilon {100 * calibration.epsilon:g} points</text>'
        f'<polyline points="{path}" fill="none" stroke="#236" stroke-width="2"/>{mark}'
        f'<text x="{EDGE}" y="{HEIGHT - EDGE + 20}">{100 * left:.0f} %</text>'
        f'<text x="{WIDTH - EDGE}" y="{HEIGHT - EDGE + 20}" text-anchor="end">{100 * right:.0f} %</text>'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 20}" text-anchor="middle">saving</text>'
        f'<text x="{EDGE}" y="{EDGE - 10}">quality lost, points: {low:.1f} to {high:.1f}</text></svg>\n'
    )


def as_png(calibration: Calibration) -> bytes | None:
    """None where matplotlib is not installed (extra `plot`)."""
    try:
        figure_module: Any = import_module("matplotlib.figure")
    except ImportError:
        return None
    figure = figure_module.Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([100 * point.saving for point in calibration.curve], [100 * point.loss for point in calibration.curve], label="any threshold")
    axes.axhline(100 * calibration.epsilon, color="0.6", linestyle="--", label=f"epsilon, {100 * calibration.epsilon:g} points")
    dot = chosen(calibration)
    if dot is not None:
        axes.plot(100 * dot.saving, 100 * dot.loss, "o", color="tab:red", label="chosen")
    axes.set_xlabel("saving, % of the large model's cost")
    axes.set_ylabel("quality lost, points")
    axes.set_title("Cost and quality of the cascade, on the calibration lines")
    axes.legend()
    out = BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()
