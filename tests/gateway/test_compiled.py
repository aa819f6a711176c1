from __future__ import annotations

import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from gateway.compiled import changed_since, is_compiled


def test_sources_that_changed_since_they_were_compiled(tmp_path: Path) -> None:
    assert not is_compiled(tmp_path)
    (tmp_path / "wire").mkdir()
    source, other = tmp_path / "wire" / "pool.py", tmp_path / "wire" / "server.py"
    extension = tmp_path / "wire" / f"pool{EXTENSION_SUFFIXES[0]}"
    for path in (source, other, extension):
        path.touch()
        os.utime(path, (1_000, 1_000))
    assert is_compiled(tmp_path)
    assert changed_since(tmp_path) == []
    os.utime(source, (1_001, 1_001))
    os.utime(other, (1_001, 1_001))
    assert changed_since(tmp_path) == [source]
