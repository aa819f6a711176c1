"""Makes the files that golden policies name: `python -m tests.golden.files.make`. They are kept, since a version covers their bytes."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from policies.calibrated import VERSION, Binding, Bounded, Calibration, Curve, Model, Point, write
from policies.ood.artifact import dumps
from policies.ood.fit import fit
from tests.policies.ood.generated import examples

HERE = Path(__file__).parent

MODEL = Model(("mean_logprob",), 0.0, -30.0, 0.0, (Curve("mean_logprob", "plain", (-4.0, 0.0), (4.0, -4.0), (0.0, 0.0)),))
"""0.5 at a mean log-probability of -2, near 1 at 0."""
CURVE = (Point(0.6, 0.4, 0.008, 0.3), Point(0.7, 0.55, 0.006, 0.15), Point(0.8, 0.72, 0.004, 0.0), Point(0.9, 0.87, 0.001, -0.2))
SUPPORT = Calibration(
    VERSION, 0.01, 0.95, 0.3, 1.0, "exact", "Quality is at most 1 point lower.", True, 0.6, MODEL, Binding("small", prefix_tokens=24), 900,
    900, Bounded(0.4, 0.35, 0.45), Bounded(0.008, -1.0, 0.01), Bounded(0.3, 0.25, 0.35), CURVE,
)  # fmt: skip
CALIBRATIONS = {
    "support": SUPPORT,
    "disabled": replace(SUPPORT, enabled=False, promise="No saving could be shown."),
    "by-segment": replace(SUPPORT, model=replace(MODEL, features=("mean_logprob", "segment"))),
    "by-guard": replace(SUPPORT, model=replace(MODEL, features=("mean_logprob", "ood_score"))),
    "by-weather": replace(SUPPORT, model=replace(MODEL, features=("mean_logprob", "margins"))),
}


def main() -> None:
    for name, calibration in CALIBRATIONS.items():
        (HERE / "calibrations" / f"{name}.json").write_bytes(write(calibration))
    (HERE / "calibrations" / "cut-off.json").write_bytes(write(SUPPORT)[:400])
    detector = dumps(fit(examples(40, 1), examples(40, 2)).detector)
    (HERE / "detectors" / "support.npz").write_bytes(detector)
    (HERE / "detectors" / "cut-off.npz").write_bytes(detector[:2000])


if __name__ == "__main__":
    main()
