from __future__ import annotations

import pytest

from gateway.compiled import changed_since


def pytest_sessionstart() -> None:
    if changed := changed_since():
        pytest.exit(f"compiled before {changed[0]} was changed: `make compile` again, or `make interpreted`", returncode=3)
