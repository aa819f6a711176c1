"""The curve, as people see it."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
from msgspec.structs import replace

from policies.calibrated import Binding, Calibration
from policies.calibration import picture
from policies.calibration.procedure import Terms, calibrate
from policies.calibration.raster import _GLYPHS
from tests.policies.calibration.lines import traffic
from tests.policies.calibration.test_raster import pixels


@pytest.fixture(scope="module")
def made() -> Calibration:
    return calibrate(traffic(1_500, 1), traffic(1_500, 2), Terms(0.02, 0.95, 0.2, 1.0), Binding())


def middle(png: bytes, colour: tuple[int, int, int]) -> tuple[float, float]:
    """(x, y) between the outermost pixels of a colour, within the axes."""
    inner = pixels(png)[picture.EDGE - 6 : picture.HEIGHT - picture.EDGE + 8]
    rows, columns = np.nonzero((inner == colour).all(axis=2))
    return (columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2 + picture.EDGE - 6


def test_the_dot_is_at_what_was_chosen(made: Calibration) -> None:
    assert made.enabled
    savings, losses = [point.saving for point in made.curve], [0.0, 2 * made.epsilon, *(point.loss for point in made.curve)]
    across = (made.saving.estimate - min(savings)) / (max(savings) - min(savings))
    up = (made.loss.estimate - min(losses)) / (max(losses) - min(losses))
    x, y = middle(picture.as_png(made), picture.RED)
    assert x == pytest.approx(picture.EDGE + across * (picture.WIDTH - 2 * picture.EDGE), abs=1)
    assert y == pytest.approx(picture.HEIGHT - picture.EDGE - up * (picture.HEIGHT - 2 * picture.EDGE), abs=1)


def test_where_the_cascade_is_disabled_there_is_a_curve_and_no_dot(made: Calibration) -> None:
    drawn = pixels(picture.as_png(replace(made, enabled=False)))
    assert not (drawn == picture.RED).all(axis=2).any()
    assert (drawn == picture.BLUE).all(axis=2).sum() > 500
    assert pixels(picture.as_png(replace(made, enabled=False, curve=()))).shape == (picture.HEIGHT, picture.WIDTH, 3)


def test_the_picture_does_not_depend_on_what_else_is_installed(made: Calibration, monkeypatch: pytest.MonkeyPatch) -> None:
    """One way of drawing, which is not matplotlib's: `policies.calibration.raster` says why."""
    before = picture.as_png(made)
    with_it = ModuleType("matplotlib")
    with_it.figure = ModuleType("matplotlib.figure")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "matplotlib", with_it)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", with_it.figure)  # type: ignore[attr-defined]
    assert picture.as_png(made) == before


def test_every_sign_of_the_picture_has_a_shape(made: Calibration, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(picture.Canvas, "text", lambda _, place, words, *more, **also: said.append(words))
    picture.as_png(made)
    assert any("saved" in words for words in said)
    assert set("".join(said)) - {" "} <= set(_GLYPHS)
