from __future__ import annotations

import stat
from pathlib import Path

import pytest

from gateway.control.policy_file import PolicyFile
from gateway.control.versions import VERSIONS_KEPT, Pointers, VersionStore
from policies.errors import PolicyError
from tests.gateway.control.rig import policy_text


def write(folder: Path, model: str) -> PolicyFile:
    (folder / "acme.sha256").write_text("a" * 64)
    path = folder / "policy.yaml"
    path.write_text(policy_text(model, extra="keys: [{name: acme, sha256: '${file:acme.sha256}'}]"))
    return PolicyFile(str(path), {})


def test_a_version_comes_back_as_it_was_whatever_happens_to_the_originals(tmp_path: Path) -> None:
    found = write(tmp_path, "m").load()
    store = VersionStore(str(tmp_path / "state"))
    store.put(found, 1.0)
    (tmp_path / "acme.sha256").unlink()
    (tmp_path / "policy.yaml").write_text("")
    again = store.load(found.loaded.version, {})
    assert again.loaded == found.loaded
    assert again.source == found.source


def test_only_the_owner_may_read_what_is_stored(tmp_path: Path) -> None:
    found = write(tmp_path, "m").load()
    VersionStore(str(tmp_path / "state")).put(found, 1.0)
    for path in (tmp_path / "state" / "versions").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_versions_beyond_the_limit_are_dropped_the_oldest_first(tmp_path: Path) -> None:
    store = VersionStore(str(tmp_path / "state"))
    pointers = Pointers()
    kept: list[str] = []
    for number in range(VERSIONS_KEPT + 3):
        found = write(tmp_path, f"m{number}").load()
        store.put(found, float(number))
        pointers = pointers.adopted(found.loaded.version)
        store.point(pointers)
        kept.append(found.loaded.version)
    assert [facts.version for facts in store.stored()] == kept[: -VERSIONS_KEPT - 1 : -1]
    assert store.pointers() == pointers


@pytest.mark.parametrize("version", ["", "..", "0123456789abcdef", "../../etc/passwd"])
def test_what_is_not_stored_is_said(tmp_path: Path, version: str) -> None:
    with pytest.raises(PolicyError, match=r"not stored|not a version"):
        VersionStore(str(tmp_path)).load(version, {})


@pytest.mark.parametrize("damage", ["policy.yaml", "facts.json", "files"])
def test_a_damaged_version_is_not_used_and_is_stored_anew(tmp_path: Path, damage: str) -> None:
    found = write(tmp_path, "m").load()
    store = VersionStore(str(tmp_path / "state"))
    store.put(found, 1.0)
    path = tmp_path / "state" / "versions" / found.loaded.version / damage
    if path.is_dir():
        path = next(path.iterdir())
    path.write_bytes(path.read_bytes().replace(b"m", b"n").replace(b"a", b"b"))
    with pytest.raises(PolicyError):
        store.load(found.loaded.version, {})
    store.put(found, 2.0)
    assert store.load(found.loaded.version, {}).source == found.source


def test_a_store_that_was_interrupted_leaves_nothing_behind(tmp_path: Path) -> None:
    store = VersionStore(str(tmp_path / "state"))
    found = write(tmp_path, "m").load()
    (tmp_path / "state" / "versions" / ".draft-1").mkdir(parents=True)
    store.put(found, 1.0)
    store.point(Pointers().adopted(found.loaded.version))
    assert sorted(each.name for each in (tmp_path / "state" / "versions").iterdir()) == sorted([found.loaded.version, "pointers.json"])


def test_pointers_that_cannot_be_read_point_nowhere(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "pointers.json").write_text("{")
    assert VersionStore(str(tmp_path)).pointers() == Pointers()
