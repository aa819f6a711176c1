"""Pages that are made from the code say what the code says: `make generated` writes them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .sources import ROOT


@pytest.mark.parametrize(
    ("page", "command"),
    [
        ("docs/policy-reference.md", ("reference",)),
        ("docs/headgate.schema.json", ("schema",)),
        ("docs/metrics.md", ("reference", "metrics")),
    ],
)
def test_page_is_up_to_date(page: str, command: tuple[str, ...]) -> None:
    made = subprocess.run([sys.executable, "-m", "gateway.cli.main", *command], capture_output=True, text=True, timeout=60, check=True)
    assert (ROOT / page).read_text(encoding="utf-8") == made.stdout, f"{page} is out of date: run `make generated`"
