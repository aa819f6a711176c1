"""An engine is installed once, whole, and by one process at a time."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from tests.engines import install
from tests.engines.install import EngineMissingError


@pytest.fixture
def installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that an installer was called with, in a cache of this test."""
    monkeypatch.setenv("HEADGATE_ENGINE_CACHE", str(tmp_path / "cache"))
    called: list[Path] = []
    monkeypatch.setitem(install.INSTALLERS, "llama", called.append)
    return called


def test_it_is_installed_once(installs: list[Path]) -> None:
    with pytest.raises(EngineMissingError, match=r"run `python -m tests\.engines\.install llama`"):
        install.installed("llama")
    folder = install.install("llama")
    assert install.install("llama") == install.installed("llama") == folder
    assert installs == [folder]


def test_what_was_broken_off_is_begun_anew(installs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(folder: Path) -> None:
        (folder / "half").touch()
        raise EngineMissingError("the network went away")

    with monkeypatch.context() as patch:
        patch.setitem(install.INSTALLERS, "llama", break_off)
        with pytest.raises(EngineMissingError, match="network"):
            install.install("llama")
    with pytest.raises(EngineMissingError, match="not installed"):
        install.installed("llama")
    assert [path.name for path in install.install("llama").iterdir()] == ["complete"]
    assert len(installs) == 1


def test_a_second_install_waits_for_the_first_but_not_for_ever(installs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "INSTALL_S", 0.0)
    monkeypatch.setattr(install, "LOCK_POLL_S", 0.01)
    install.cache().mkdir(parents=True)
    with (install.cache() / "llama-server.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(EngineMissingError, match="another install"):
            install.install("llama")
    assert not installs
    assert install.install("llama").is_dir()


def test_a_program_that_is_not_here_is_a_missing_engine(installs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(install.INSTALLERS, "llama", install._install_llama)
    with pytest.raises(EngineMissingError, match=r"apt-get|Debian"):
        install.install("llama")
