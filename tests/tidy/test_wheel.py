"""What is shipped: the three packages and the models' weights, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .sources import PACKAGES, ROOT, named, sources

WHEEL_BYTES_MAX = 12 * 1024 * 1024


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the checkout is left as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so", "build", "dist")
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(folder),
        str(copy),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        scripts = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)
    assert {name for name in names if name.endswith(".py")} == {named(path) for path in sources()}
    assert re.search(r"^headgate = gateway\.cli\.main:main$", scripts, re.MULTILINE)
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_models_are_in_it(wheel: Path) -> None:
    weights = {named(path) for path in (ROOT / "gateway" / "embedded" / "weights").iterdir()}
    with zipfile.ZipFile(wheel) as archive:
        assert weights <= set(archive.namelist())
    assert weights
    assert wheel.stat().st_size <= WHEEL_BYTES_MAX
