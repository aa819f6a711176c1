from __future__ import annotations

import ast
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from gateway.compiled import changed_since, is_compiled

ROOT = Path(__file__).parents[2]


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


def test_what_is_compiled_has_no_struct() -> None:
    """A compiled class takes no options, and msgspec would find none of its fields."""
    listed = next(
        node.value
        for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED"
    )
    for name in ast.literal_eval(listed):
        classes = [node for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef)]
        assert not [each.name for each in classes if any("Struct" in ast.unparse(base) for base in each.bases)], name
