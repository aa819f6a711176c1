"""What plots need: matplotlib (extra `plot`), loaded only where something is drawn."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    try:
        import_module("matplotlib.figure")
    except ImportError:
        return False
    return True


def must_draw(parser: argparse.ArgumentParser, option: str) -> None:
    """Exit with a word where it is not."""
    if not can_draw():
        parser.error(f"{option} needs matplotlib: pip install 'headgate[plot]'")


def new_figure(width: float, height: float) -> Any:
    """Inches."""
    module: Any = import_module("matplotlib.figure")
    return module.Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, path: Path) -> None:
    """As PNG; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=110)
