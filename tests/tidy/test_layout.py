"""Where things are and what they are called."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from .sources import ROOT, each_source, named, sources, tree

LINES_MAX = 400
"""Aim for 300. A file above this one says why, below."""
LONG_FOR_A_REASON = {
    "policies/schema.py": "one class a group of keys: it is looked things up in, not held in the head",
    "gateway/exchange/executor.py": "the one place that interprets verbs: cut in two, it would be read in both",
}
FUNCTION_LINES_MAX = 80


def test_no_drawers_for_odds_and_ends() -> None:
    banned = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
    assert not [named(path) for path in sources() if banned & set(re.split(r"[_/.]", named(path)))]


def test_every_module_says_what_it_is_for() -> None:
    silent = [named(path) for path in sources() if path.name != "__init__.py" and not ast.get_docstring(tree(path))]
    assert not silent


@each_source
def test_a_file_can_be_held_in_the_head(path: Path) -> None:
    if named(path) not in LONG_FOR_A_REASON:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES_MAX
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES_MAX, f"{named(path)}:{node.lineno} {node.name} is too long"


def test_tests_mirror_the_packages() -> None:
    """A folder of tests belongs to a package or module, and every one of them is a package itself, so that names may repeat."""
    for folder in (ROOT / "tests").rglob("*"):
        if folder.is_dir() and any(folder.glob("*.py")):
            assert (folder / "__init__.py").exists(), f"{named(folder)} has no __init__.py"


def test_the_commands_of_the_readme_are_those_of_ci_and_the_makefile() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    run = re.findall(r"^make (\w+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    readme = (ROOT / "README.md").read_text()
    assert {"demo", "test", "check", "setup"} <= targets
    assert set(run) <= targets
    assert {"check", "test"} <= set(run)
    assert all(f"make {target}" in readme for target in ("demo", "test", "check"))


def test_every_dependency_is_pinned_for_the_suite() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=!\[ ]", each)[0].lower().replace("_", "-") for each in asked}
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert names <= pinned
