from __future__ import annotations

import os

# Before numpy is loaded: tests run side by side, and threads of one fit would take the cores of all.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from gateway.compiled import changed_since

# How long an example takes says more of the machine than of the code. The same examples every time: a change is judged by what it changes.
settings.register_profile("headgate", deadline=None, derandomize=True)
settings.load_profile("headgate")


def pytest_sessionstart() -> None:
    if changed := changed_since():
        pytest.exit(f"compiled before {changed[0]} was changed: `make compile` again, or `make interpreted`", returncode=3)
