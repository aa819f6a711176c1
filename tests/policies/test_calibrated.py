"""The file of a calibration: read back as written, and refused where it is not one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from policies.calibrated import VERSION, Binding, Bounded, Calibration, CalibrationError, Curve, Level, Model, mismatch, read, write

CURVE = Curve("x", "plain", (0.0, 1.0), (0.0, -2.0), (-30.0, -30.0))
MODEL = Model(("x", "kind"), 0.0, -30.0, 0.8, (CURVE,), (Level("kind", 1.0, 1.0, 0.0),))
BOUNDED = Bounded(0.2, 0.1, 0.3)
CALIBRATION = Calibration(
    VERSION, 0.01, 0.95, 0.3, 1.0, "exact", "...", True, 0.7, MODEL, Binding("small", prefix_tokens=24), 10, 10, BOUNDED, BOUNDED, BOUNDED
)


def changed(**change: Any) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(write(CALIBRATION)) | change)


def model(**change: Any) -> bytes:
    return changed(model=msgspec.to_builtins(MODEL) | change)


def test_read_back_as_written() -> None:
    assert read(write(CALIBRATION)) == CALIBRATION


def test_score_and_threshold_by_hand() -> None:
    assert CALIBRATION.score({"x": 0.0, "kind": 0.0}) == pytest.approx(0.5)
    assert CALIBRATION.score({"x": 0.5, "kind": 1.0}) == pytest.approx(0.5), "-1 of the curve, +1 of the level"
    assert CALIBRATION.defers({"x": 0.0, "kind": 0.0}) is True
    assert CALIBRATION.defers({"x": 5.0, "kind": 0.0}) is False
    assert CALIBRATION.defers({"x": 0.0}) is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cut off"),
        (write(CALIBRATION)[:200], "cut off"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "kind"),
        (changed(kind="detector"), "kind"),
        (changed(version=99), "version 99"),
        (changed(rows_calibrated=0), "no calibration"),
        (changed(threshold=None), "without a threshold"),
        (changed(epsilon=0), "epsilon"),
        (changed(extra=1), "extra"),
        (changed(model=None), "model"),
        (model(features=["y"]), "not among model.features"),
        (model(curves=[msgspec.to_builtins(CURVE) | {"knots": [1.0, 0.0]}]), "do not rise"),
        (model(curves=[msgspec.to_builtins(CURVE) | {"worse": [1.0]}]), "as many values as knots"),
        (model(credit=7), "credit"),
    ],
)
def test_what_is_no_calibration_is_refused_with_the_reason(data: bytes, said: str) -> None:
    with pytest.raises(CalibrationError, match=said) as refused:
        read(data, "support.json")
    assert "support.json" in str(refused.value)


@pytest.mark.parametrize(
    "wanted",
    [
        Binding("other", prefix_tokens=24),
        Binding("small"),
        Binding("small", prefix_tokens=24, tokens="all"),
        Binding("small", "margin", 24),
    ],
)
def test_it_holds_for_what_it_was_made_for_alone(wanted: Binding) -> None:
    assert mismatch(CALIBRATION, wanted) is not None
    assert mismatch(CALIBRATION, CALIBRATION.binding) is None
