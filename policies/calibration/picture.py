"""The cost-quality curve of a calibration, for people: JSON and PNG."""

from __future__ import annotations

from itertools import pairwise

import msgspec

from policies.calibrated import Calibration, Point
from policies.calibration.raster import Canvas

WIDTH, HEIGHT, EDGE = 770, 495, 70
GREY, BLUE, RED, BLACK = (150, 150, 150), (32, 48, 102), (204, 51, 51), (0, 0, 0)


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


def as_png(calibration: Calibration) -> bytes:
    """Loss of quality against saving, epsilon as a dashed line, the chosen threshold as a dot."""
    points = calibration.curve
    savings = [100 * point.saving for point in points] or [0.0]
    losses = [100 * point.loss for point in points] + [0.0, 200 * calibration.epsilon]
    left, right = min(savings), max(max(savings), min(savings) + 1e-9)
    low, high = min(losses), max(losses)

    def place(saving: float, loss: float) -> tuple[float, float]:
        across, up = (100 * saving - left) / (right - left), (100 * loss - low) / (high - low)
        return EDGE + across * (WIDTH - 2 * EDGE), HEIGHT - EDGE - up * (HEIGHT - 2 * EDGE)

    canvas = Canvas(WIDTH, HEIGHT)
    bottom = HEIGHT - EDGE
    canvas.line((EDGE, EDGE), (EDGE, bottom), BLACK)
    canvas.line((EDGE, bottom), (WIDTH - EDGE, bottom), BLACK)
    line = place(0, calibration.epsilon)[1]
    canvas.line((EDGE, line), (WIDTH - EDGE, line), GREY, dashed=True)
    canvas.text((EDGE + 10, line - 20), f"epsilon, {100 * calibration.epsilon:g} points", GREY)
    places = [place(point.saving, point.loss) for point in points]
    for start, end in pairwise(places):
        canvas.line(start, end, BLUE)
    dot = chosen(calibration)
    if dot is not None:
        canvas.dot(place(dot.saving, dot.loss), 6, RED)
        there = f"dot: in force, {100 * dot.saving:.1f}% saved, {100 * dot.loss:.1f} points lost"
        canvas.text((WIDTH - EDGE, EDGE - 58), there, RED, ends=True)
    canvas.text((EDGE - 8, EDGE - 8), f"{high:.1f}", ends=True)
    canvas.text((EDGE - 8, bottom - 8), f"{low:.1f}", ends=True)
    canvas.text((EDGE, EDGE - 30), "quality lost, points")
    canvas.text((EDGE, bottom + 12), f"{left:.0f}%")
    canvas.text((WIDTH - EDGE, bottom + 12), f"{right:.0f}%", ends=True)
    canvas.text((WIDTH - EDGE, bottom + 36), "saving, % of the large cost", ends=True)
    return canvas.png()
