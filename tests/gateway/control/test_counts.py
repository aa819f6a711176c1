"""What workers have counted, over a restart of the controller."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.control.counts import CountsFile
from gateway.telemetry.metrics import Exposition
from gateway.telemetry.sample import Sample

REQUESTS, LABELS = "headgate_requests_total", ("chat", "primary", "200")


async def saved(folder: Path, run: str = "run", count: float = 5) -> CountsFile:
    exposition = Exposition()
    exposition.update("w", [Sample(REQUESTS, LABELS, count)])
    file = CountsFile(str(folder), run)
    await file.save(exposition)
    return file


def restored(folder: Path, run: str = "run") -> float:
    exposition = Exposition()
    CountsFile(str(folder), run).restore(exposition)
    return exposition.value(REQUESTS, *LABELS)


async def test_counts_outlive_the_controller_but_not_the_gateway(tmp_path: Path) -> None:
    assert restored(tmp_path) == 0
    await saved(tmp_path)
    assert restored(tmp_path) == 5
    assert restored(tmp_path, "another run") == 0
    assert (tmp_path / "counts.msgpack").stat().st_mode & 0o777 == 0o600


async def test_only_a_change_is_written(tmp_path: Path) -> None:
    exposition = Exposition()
    file = CountsFile(str(tmp_path), "run")
    exposition.update("w", [Sample(REQUESTS, LABELS, 5)])
    await file.save(exposition)
    before = (tmp_path / "counts.msgpack").stat().st_ino
    exposition.update("w", [Sample("headgate_connections_open", (), 3)])  # a gauge: it dies with its worker
    await file.save(exposition)
    assert (tmp_path / "counts.msgpack").stat().st_ino == before
    exposition.retire("w")
    exposition.update("new", [Sample(REQUESTS, LABELS, 1)])
    await file.save(exposition)
    assert restored(tmp_path) == 6


@pytest.mark.parametrize("damage", [b"", b"\xff", b"not msgpack"])
async def test_a_damaged_file_is_told_and_passed_over(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    await saved(tmp_path)
    (tmp_path / "counts.msgpack").write_bytes(damage)
    assert restored(tmp_path) == 0
    assert "what workers had counted is lost" in caplog.text


async def test_a_disk_that_fails_is_told_of_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    exposition = Exposition()
    exposition.update("w", [Sample(REQUESTS, LABELS, 5)])
    file = CountsFile(str(tmp_path), "run")
    with monkeypatch.context() as broken:
        broken.setattr(os, "rename", full)
        await file.save(exposition)
        await file.save(exposition)
    assert caplog.text.count("counts cannot be saved") == 1
    await file.save(exposition)
    assert restored(tmp_path) == 5
