"""Nothing is parsed and ignored: every key that a policy may have has a test, marked with it, that shows what it does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.fields import schema_keys

TESTS = Path(__file__).parent.parent


def marked_keys() -> Iterator[tuple[str, str]]:
    """(key, test) of every `@pytest.mark.key("...")` on a test."""
    for file in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for decorator in node.decorator_list:
                    yield from ((key, f"{file.relative_to(TESTS)}::{node.name}") for key in _keys(decorator))


def _keys(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.key":
        for argument in node.args:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield argument.value


MARKED = dict(marked_keys())


@pytest.mark.parametrize("key", schema_keys())
def test_a_key_has_a_test_of_its_behaviour(key: str) -> None:
    assert key in MARKED, f'no test is marked @pytest.mark.key("{key}")'


def test_marks_name_keys_that_there_are() -> None:
    assert {key: test for key, test in marked_keys() if key not in schema_keys()} == {}
