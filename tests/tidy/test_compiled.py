"""What docs/adr/0008 asks of the files that are compiled."""

from __future__ import annotations

import ast

import pytest

from tests.tidy.sources import ROOT

SETUP = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
COMPILED = next(
    ast.literal_eval(node.value)
    for node in SETUP.body
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "COMPILED"
)


@pytest.mark.parametrize("file", COMPILED)
def test_constants_are_final(file: str) -> None:
    """Where one is not, compiled code looks its name up in a dictionary each time: in a loop over a token's bytes that was a third
    of the cost of an event."""
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        said = f"{file}:{node.lineno}"
        if isinstance(node, ast.AnnAssign):
            kind = ast.unparse(node.annotation)
            assert kind.startswith("Final") or kind == "TypeAlias", f"{said}: say Final"
        elif isinstance(node, ast.Assign):
            made = ast.unparse(node)
            assert made.startswith("__all__") or " = TypeVar(" in made, f"{said}: say Final"
