"""What importing does: nothing. And what a worker loads: little."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from .sources import PACKAGES, ROOT, each_source, named, sources, tree

NEVER_IN_A_WORKER = {
    "yaml", "starlette", "uvicorn", "httpx", "sqlite3", "numpy", "scipy", "torch", "opentelemetry", "prometheus_client", "monitors",
    "gateway.records", "gateway.control", "gateway.admin", "gateway.embedded", "gateway.cli", "gateway.supervisor",
}  # fmt: skip

MUTATORS = {
    "append", "extend", "insert", "remove", "pop", "clear", "update", "setdefault", "add", "discard", "popitem", "appendleft",
    "popleft", "sort", "reverse", "__setitem__",
}  # fmt: skip

NEEDS_TORCH = {"gateway.embedded.train"}


def modules() -> list[str]:
    """The dotted names of all of them."""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in sources()]
    return [name for name in names if name not in NEEDS_TORCH and not name.endswith("__main__")]


def test_a_worker_is_an_event_loop_and_nothing_else() -> None:
    program = "import json, sys, gateway.worker; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(json.loads(done.stdout))
    assert not {name for name in loaded if any(name == each or name.startswith(f"{each}.") for each in NEVER_IN_A_WORKER)}


def test_importing_does_nothing() -> None:
    """No thread, no open file or socket, no handler, no signal, no file written, by any module."""
    program = """
import importlib, json, logging, os, signal, sys, threading
def state():
    return {
        "threads": threading.active_count(), "handlers": len(logging.getLogger().handlers), "files": sorted(os.listdir("/proc/self/fd"))
        if os.path.isdir("/proc/self/fd") else [], "signals": [str(signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGHUP)],
        "environment": dict(os.environ), "folder": os.listdir("."),
    }
before = state()
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
after = state()
print(json.dumps([key for key in before if before[key] != after[key]]))
"""
    done = subprocess.run([sys.executable, "-c", program, json.dumps(modules())], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    assert done.stderr == ""


@each_source
def test_a_module_only_declares(path: Path) -> None:
    for node in tree(path).body:
        declares = isinstance(
            node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
        )
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        guarded = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'")
        assert declares or docstring or guarded, f"{named(path)}:{node.lineno} does something when it is imported"


@pytest.mark.parametrize("name", modules())
def test_what_a_module_holds_is_constant(name: str) -> None:
    """An object of one of our own classes that a module holds is frozen or has nothing in it; no queue, counter or lock lives there."""
    for attribute, value in vars(importlib.import_module(name)).items():
        kind = type(value)
        if kind.__module__.partition(".")[0] in PACKAGES:
            frozen = isinstance(value, tuple | type) or (isinstance(value, msgspec.Struct) and value.__struct_config__.frozen)
            frozen = frozen or (dataclasses.is_dataclass(value) and value.__dataclass_params__.frozen)  # type: ignore[union-attr]
            empty = not getattr(value, "__dict__", None) and not getattr(value, "__slots__", None)
            assert frozen or empty, f"{name}.{attribute} is a {kind.__name__} that could change"
        assert kind.__module__ not in ("collections", "queue", "_thread", "threading", "asyncio"), (
            f"{name}.{attribute} is a {kind.__name__}"
        )


@each_source
def test_no_mutable_state_in_modules(path: Path) -> None:
    """Constants may be dicts; nobody may change them, and no function may rebind a module's name."""
    module = tree(path)
    constants = {
        target.id
        for node in module.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(module):
        where = f"{named(path)}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Global), f"{where} rebinds a module's name"
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del) and isinstance(node.value, ast.Name):
            assert node.value.id not in constants, f"{where} changes {node.value.id}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            assert node.func.value.id not in constants or node.func.attr not in MUTATORS, f"{where} changes {node.func.value.id}"
