"""Which cores a subject is given."""

from __future__ import annotations

import pytest

from loadtests import subjects


@pytest.mark.parametrize(("count", "workers", "cores"), [(2, 1, "0"), (2, 2, "0"), (3, 2, "0,2"), (8, 1, "0"), (8, 2, "0,2")])
def test_a_core_for_each_worker_where_there_are_so_many(count: int, workers: int, cores: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects.os, "cpu_count", lambda: count)
    assert subjects.cores(workers) == cores
