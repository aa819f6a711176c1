"""From a changed file to a policy in force on every worker, and everything that can go wrong between."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.control import apply as apply_module
from gateway.control import fleet as fleet_module
from gateway.control import reload as reload_module
from gateway.control.exposure import open_to_all
from gateway.control.reload import RollbackError
from gateway.link.messages import Prepare
from gateway.link.named_files import read_named
from policies.errors import PolicyError
from policies.schema import Policy
from tests.gateway.control.rig import Rig, policy_text, until
from tests.policies.golden import NAMED
from tests.policies.ood.tiny import slow_artifact


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    rig.write(policy_text("v1"))
    yield rig
    await rig.reloader.close()


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload_module, "POLL_INTERVAL_S", 0.02)
    monkeypatch.setattr(apply_module, "READY_LOOK_S", 0.005)


async def test_the_first_policy_is_given_to_the_workers_that_come(rig: Rig) -> None:
    early = rig.worker(0)
    outcome = await rig.reloader.start()
    late = rig.worker(1)
    await asyncio.sleep(0)
    version = outcome.version
    assert outcome.result == "ok"
    assert early.orders() == late.orders() == [("Prepare", version), ("Swap", version)]
    assert early.version == late.version == version
    assert rig.hooks.told == [("preparing", "v1"), ("in_force", version)]
    assert [overlay.workers for overlay in early.overlays()] == [1, 2]
    assert [type(each).__name__ for each in late.heard] == ["Overlay", "Prepare", "Swap"]


async def test_a_worker_that_has_the_version_already_is_not_told_again(rig: Rig) -> None:
    version = (await rig.reloader.start()).version
    back = rig.worker(0, version=version)
    assert back.orders() == []
    assert [overlay.workers for overlay in back.overlays()] == [1]


async def test_a_change_is_prepared_everywhere_before_it_is_swapped_anywhere(rig: Rig) -> None:
    first = await rig.reloader.start()
    workers = [rig.worker(0), rig.worker(1)]
    workers[1].silent = True
    rig.write(policy_text("v2"))
    reload = asyncio.create_task(rig.reloader.reload())
    await until(lambda: len(workers[1].orders()) == 3)  # Prepare, Swap, and the new Prepare
    await asyncio.sleep(0)
    assert workers[0].orders()[-1][0] == "Prepare"  # and waits for the other
    workers[1].silent = False
    workers[1].send(workers[0].heard[-1])
    outcome = await reload
    assert outcome.result == "ok"
    assert outcome.version != first.version
    assert [worker.version for worker in workers] == [outcome.version] * 2


async def test_where_one_worker_fails_none_swaps_and_the_old_policy_stays(rig: Rig) -> None:
    first = await rig.reloader.start()
    good, bad = rig.worker(0), rig.worker(1)
    await asyncio.sleep(0)
    bad.fails = "no such file"
    rig.write(policy_text("v2"))
    outcome = await rig.reloader.reload()
    assert outcome.result == "rejected"
    assert "worker 1: no such file" in str(outcome.problems[0])
    assert good.version == bad.version == first.version == rig.reloader.version
    assert [kind for kind, _ in good.orders()] == ["Prepare", "Swap", "Prepare", "Discard"]
    assert rig.reloader.rejected is not None
    assert rig.probes.watched == ["small:v1"]
    bad.fails = ""
    assert (await rig.reloader.reload()).result == "ok"
    assert rig.reloader.rejected is None


async def test_detectors_are_read_before_any_worker_prepares_or_nothing_changes(rig: Rig) -> None:
    worker = rig.worker()
    rig.write(policy_text())
    await rig.reloader.start()
    before = rig.reloader.version
    detectors = "detectors: [{name: d, artifact: d.npz}]\n"
    (rig.path.parent / "d.npz").write_bytes(slow_artifact())
    rig.write(policy_text().replace("backend: small}", "backend: small, guard: {detector: d, when_ood: flag}}") + detectors)
    rig.hooks.unopened = ["detector d: the encoder is not installed"]
    outcome = await rig.reloader.reload()
    assert (outcome.result, rig.reloader.version) == ("rejected", before)
    assert "the encoder is not installed" in str(outcome.problems[0])
    assert len([each for each in worker.orders() if each[0] == "Prepare"]) == 1, "no worker was asked"
    rig.hooks.unopened = []
    assert (await rig.reloader.reload()).result == "ok"
    digest = hashlib.sha256(slow_artifact()).hexdigest()
    assert rig.hooks.told[-2:] == [("open_detectors", f"d={digest} ['{digest}']"), ("in_force", rig.reloader.version)]


async def test_a_worker_that_does_not_answer_fails_the_reload_one_that_dies_does_not(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "PREPARE_TIMEOUT_S", 0.05)
    await rig.reloader.start()
    rig.worker(0)
    stopped = rig.worker(1)
    await asyncio.sleep(0)
    stopped.silent = True
    rig.write(policy_text("v2"))
    assert "worker 1: no answer" in str((await rig.reloader.reload()).problems[0])
    monkeypatch.setattr(fleet_module, "PREPARE_TIMEOUT_S", 5.0)
    orders = len(stopped.orders())
    reload = asyncio.create_task(rig.reloader.reload())
    await until(lambda: len(stopped.orders()) > orders)
    stopped.close()
    assert (await reload).result == "ok"


async def test_a_worker_that_does_not_swap_is_cut_off_and_told_anew(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "SWAP_TIMEOUT_S", 0.05)
    await rig.reloader.start()
    worker = rig.worker(0)
    await asyncio.sleep(0)
    worker._prepared = _Forgetful()
    rig.write(policy_text("v2"))
    outcome = await rig.reloader.reload()
    assert outcome.result == "ok"
    assert worker.closed
    again = rig.worker(0, version=worker.version)
    await asyncio.sleep(0)
    assert again.version == outcome.version


class _Forgetful(set[str]):
    def add(self, element: str) -> None:
        pass


async def test_a_worker_that_comes_between_prepare_and_swap_is_brought_up_by_the_swap(rig: Rig) -> None:
    first = await rig.reloader.start()
    rig.write(policy_text("v2", url="http://127.0.0.1:2"))
    rig.probes.unready = {"small"}
    reload = asyncio.create_task(rig.reloader.reload())
    await until(lambda: "small:v2" in rig.probes.watched)
    late = rig.worker(3)
    await asyncio.sleep(0)
    assert late.version == first.version
    rig.probes.unready = set()
    outcome = await reload
    assert late.version == outcome.version != first.version
    assert not late.closed


async def test_a_new_backend_that_is_not_ready_delays_the_swap_and_then_goes_in(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload_module, "READY_WITHIN_S", 0.1)
    await rig.reloader.start()
    rig.probes.unready = {"small"}
    rig.write(policy_text("v2", url="http://127.0.0.1:2"))
    started = asyncio.get_running_loop().time()
    outcome = await rig.reloader.reload()
    assert asyncio.get_running_loop().time() - started >= 0.1
    assert (outcome.result, outcome.unready) == ("ok", ("small",))


async def test_a_backend_that_stays_is_not_waited_for(rig: Rig) -> None:
    await rig.reloader.start()
    rig.probes.unready = {"small"}
    rig.write(policy_text("v1").replace("model: v1", "model: v1, price: {input: 1.0}"))
    outcome = await asyncio.wait_for(rig.reloader.reload(), 5)
    assert (outcome.result, outcome.unready) == ("ok", ())


async def test_a_newer_content_supersedes_one_that_waits(rig: Rig) -> None:
    await rig.reloader.start()
    worker = rig.worker()
    rig.probes.unready = {"small:v2"}
    rig.write(policy_text("v2", url="http://127.0.0.1:2"))
    waiting = asyncio.create_task(rig.reloader.reload())
    await until(lambda: "small:v2" in rig.probes.watched)
    rig.write(policy_text("v3", url="http://127.0.0.1:3"))
    assert (await rig.reloader.reload()).result == "ok"
    outcome = await waiting
    assert outcome.result == "superseded"
    assert ("Discard" in [kind for kind, _ in worker.orders()]) is True
    assert rig.probes.watched == ["small:v3"]
    assert worker.version == rig.reloader.version


async def test_asking_again_for_what_is_on_its_way_does_not_start_it_anew(rig: Rig) -> None:
    await rig.reloader.start()
    worker = rig.worker()
    rig.probes.unready = {"small"}
    rig.write(policy_text("v2", url="http://127.0.0.1:2"))
    first = asyncio.create_task(rig.reloader.reload())
    await until(lambda: "small:v2" in rig.probes.watched)
    second = asyncio.create_task(rig.reloader.reload())
    await asyncio.sleep(0.05)
    rig.probes.unready = set()
    assert (await first).result == "ok"
    assert (await second).result == "unchanged"
    assert [kind for kind, _ in worker.orders()].count("Prepare") == 2


# The file


def delete(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "binary": (lambda path: path.write_bytes(bytes(range(256))), "not UTF-8|may not stand in YAML"),
    "huge": (lambda path: path.write_bytes(b"#" * (1024 * 1024 + 1)), "it has 1048577 bytes"),
    "half written": (lambda path: path.write_text(policy_text("v2")[:90]), "."),
    "dangling name": (lambda path: path.write_text(policy_text("v2").replace("backend: small", "backend: smal")), "smal"),
    "deleted": (delete, "No such file"),
    "a folder": (folder, "no regular file"),
    "a pipe": (pipe, "no regular file"),
    "a dangling link": (dangling, "No such file"),
}


@pytest.mark.parametrize("how", BAD)
async def test_a_file_that_is_no_policy_keeps_what_is_in_force_and_says_so(rig: Rig, how: str) -> None:
    first = await rig.reloader.start()
    worker = rig.worker()
    watch = asyncio.create_task(rig.reloader.watch())
    spoil, words = BAD[how]
    spoil(rig.path)
    outcome = await rig.outcome(2)
    assert outcome.result == "rejected"
    assert outcome.version == first.version == worker.version
    assert re.search(words, str(outcome.problems[0]))
    assert ("No such file" in words) == (str(outcome.problems[0]) == f"{rig.path}: cannot read the policy file: No such file or directory")
    assert rig.reloader.rejected is not None
    await asyncio.sleep(0.1)
    assert len(rig.outcomes) == 2  # told once, not at every look
    if rig.path.is_dir():
        rig.path.rmdir()
    else:
        rig.path.unlink(missing_ok=True)
    rig.write(policy_text("v2"))
    assert (await rig.outcome(3)).result in ("ok", "rejected")  # the file was gone for a moment
    while rig.reloader.rejected is not None:
        await rig.outcome(len(rig.outcomes) + 1)
    assert rig.reloader.version != first.version
    watch.cancel()


async def test_what_is_not_supported_yet_is_refused_before_a_worker_hears_of_it(rig: Rig) -> None:
    text = policy_text().replace("{name: small,", "{name: big, kind: openai, replicas: [http://b:1], model: b}\n  - {name: small,")
    cascade = "    cascade: {stages: [{backend: small}], last: big, audit: {accepted_percent: 2, agree: judge}}\n"
    rig.write(text[: text.index("  - {name: chat")] + "  - name: chat\n    matches: [{models: [chat]}]\n" + cascade)
    worker = rig.worker()
    with pytest.raises(PolicyError) as refused:
        await rig.reloader.start()
    assert ["not supported yet" in each.message for each in refused.value.problems] == [True]
    assert not [each for each in worker.heard if isinstance(each, Prepare)]


async def test_workers_are_told_the_hash_of_each_file_that_compiling_needs(rig: Rig) -> None:
    data = (NAMED / "detectors" / "support.npz").read_bytes()
    (rig.path.parent / "d.npz").write_bytes(data)
    rig.write(policy_text(extra="detectors: [{name: d, artifact: d.npz}]"))
    worker = rig.worker()
    await rig.reloader.start()
    (order,) = [each for each in worker.heard if isinstance(each, Prepare)]
    assert order.named == {"d.npz": hashlib.sha256(data).hexdigest()}
    assert read_named(order.files, order.named["d.npz"]) == data


async def test_an_editor_that_renames_over_the_file_is_noticed(rig: Rig) -> None:
    await rig.reloader.start()
    watch = asyncio.create_task(rig.reloader.watch())
    for number in range(2):
        new = rig.path.with_suffix(".new")
        new.write_text(policy_text(f"w{number}"))
        new.replace(rig.path)
        assert (await rig.outcome(2 + number)).result == "ok"
    watch.cancel()


async def test_a_config_map_whose_link_is_swapped_is_noticed(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    mount = rig.path.parent
    for name in ("one", "two"):
        (mount / name).mkdir()
        (mount / name / "policy.yaml").write_text(policy_text(name))
    os.utime(mount / "two" / "policy.yaml", ns=((mount / "one" / "policy.yaml").stat().st_mtime_ns,) * 2)
    (mount / "..data").symlink_to("one")
    rig.path.symlink_to("..data/policy.yaml")
    await rig.reloader.start()
    watch = asyncio.create_task(rig.reloader.watch())
    (mount / "..next").symlink_to("two")
    (mount / "..next").replace(mount / "..data")
    assert (await rig.outcome(2)).result == "ok"
    watch.cancel()
    await rig.reloader.close()


async def test_a_file_that_is_still_being_written_is_let_be(rig: Rig) -> None:
    await rig.reloader.start()
    watch = asyncio.create_task(rig.reloader.watch())
    text = policy_text("v2", extra="#" * 400)
    with rig.path.open("w") as file:
        for start in range(0, len(text), 20):  # about 0.3 s, never still for two looks
            file.write(text[start : start + 20])
            file.flush()
            await asyncio.sleep(0.01)
    assert (await rig.outcome(2)).result == "ok"
    watch.cancel()


async def test_a_poke_reloads_at_once_and_says_that_nothing_changed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(reload_module, "POLL_INTERVAL_S", 60.0)
    await rig.reloader.start()
    watch = asyncio.create_task(rig.reloader.watch())
    await asyncio.sleep(0)
    rig.reloader.poke()
    assert (await rig.outcome(2)).result == "unchanged"
    assert "the policy says what is in force: nothing changes" in caplog.text
    watch.cancel()


KEYED = "keys: [{name: acme, sha256: '${file:acme.sha256}'}]"


async def test_a_file_that_the_policy_names_is_watched_and_is_part_of_the_version(rig: Rig) -> None:
    secret = rig.path.parent / "acme.sha256"
    secret.write_text("a" * 64)
    rig.write(policy_text("v1", extra=KEYED))
    first = await rig.reloader.start()
    watch = asyncio.create_task(rig.reloader.watch())
    secret.write_text("b" * 64)
    outcome = await rig.outcome(2)
    assert outcome.result == "ok"
    assert outcome.version != first.version
    secret.unlink()
    assert (await rig.outcome(3)).result == "rejected"
    secret.write_text("b" * 64)
    assert (await rig.outcome(4)).result == "unchanged"
    assert rig.reloader.rejected is None
    watch.cancel()


# Rollback and restart


async def test_a_rollback_brings_back_the_files_too_and_pins_until_the_file_changes(rig: Rig) -> None:
    secret = rig.path.parent / "acme.sha256"
    secret.write_text("a" * 64)
    rig.write(policy_text("v1", extra=KEYED))
    first = await rig.reloader.start()
    worker = rig.worker()
    secret.write_text("b" * 64)
    rig.write(policy_text("v2", extra=KEYED))
    second = await rig.reloader.reload()
    outcome = await rig.reloader.rollback()
    assert (outcome.result, outcome.version) == ("rolled_back", first.version)
    assert worker.version == first.version
    assert rig.reloader.current is not None
    assert rig.reloader.current.loaded.policy.keys[0].sha256 == "a" * 64
    assert rig.reloader.pinned
    assert (await rig.reloader.reload()).result == "pinned"
    rig.path.touch()
    assert (await rig.reloader.reload()).result == "pinned"
    rig.write(policy_text("v3", extra=KEYED))
    third = await rig.reloader.reload()
    assert third.result == "ok"
    assert third.version not in (first.version, second.version)
    assert not rig.reloader.pinned


async def test_a_rollback_holds_across_a_restart(rig: Rig, tmp_path: Path) -> None:
    first = await rig.reloader.start()
    rig.write(policy_text("v2"))
    second = await rig.reloader.reload()
    await rig.reloader.rollback()
    restarted = Rig(tmp_path)
    outcome = await restarted.reloader.start()
    assert (outcome.result, outcome.version) == ("pinned", first.version)
    assert restarted.reloader.pinned
    restarted.write(policy_text("v2") + "# a second look\n")
    assert (await restarted.reloader.reload()).version == second.version
    assert not restarted.reloader.pinned


async def test_a_second_rollback_goes_further_back_and_the_end_is_said(rig: Rig) -> None:
    versions = [(await rig.reloader.start()).version]
    for model in ("v2", "v3"):
        rig.write(policy_text(model))
        versions.append((await rig.reloader.reload()).version)
    assert (await rig.reloader.rollback()).version == versions[1]
    assert (await rig.reloader.rollback()).version == versions[0]
    with pytest.raises(RollbackError, match="no earlier version"):
        await rig.reloader.rollback()
    assert (await rig.reloader.reload()).result == "pinned"


async def test_a_rollback_that_a_worker_cannot_prepare_changes_nothing(rig: Rig) -> None:
    await rig.reloader.start()
    rig.write(policy_text("v2"))
    second = await rig.reloader.reload()
    worker = rig.worker()
    await asyncio.sleep(0)
    worker.fails = "no"
    outcome = await rig.reloader.rollback()
    assert (outcome.result, outcome.version) == ("rejected", second.version)
    assert not rig.reloader.pinned
    assert rig.reloader.rejected is None  # the file is in force
    worker.fails = ""
    assert (await rig.reloader.rollback()).result == "rolled_back"


async def test_a_wrong_file_at_start_is_no_reason_to_be_down(rig: Rig, tmp_path: Path) -> None:
    first = await rig.reloader.start()
    rig.write("version: 1\n")
    restarted = Rig(tmp_path)
    outcome = await restarted.reloader.start()
    assert (outcome.result, outcome.version) == ("rejected", first.version)
    assert outcome.problems
    assert restarted.reloader.rejected is not None
    restarted.write(policy_text("v2"))
    assert (await restarted.reloader.reload()).result == "ok"


async def test_a_wrong_file_and_nothing_stored_is_an_error(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    with pytest.raises(PolicyError, match="No such file"):
        await rig.reloader.start()
    rig.write("version: 1\n")
    with pytest.raises(PolicyError, match="backends"):
        await rig.reloader.start()


async def test_a_secret_that_changed_while_the_gateway_was_down_is_taken_from_today(tmp_path: Path) -> None:
    text = policy_text().replace("model: m}", 'model: m, api_key: "${env:KEY}"}')
    rig = Rig(tmp_path, {"KEY": "old"})
    rig.write(text)
    first = await rig.reloader.start()
    rig.write("nonsense")
    restarted = Rig(tmp_path, {"KEY": "new"})
    outcome = await restarted.reloader.start()
    assert outcome.version != first.version
    assert restarted.reloader.current is not None
    assert restarted.reloader.current.loaded.policy.backends[0].api_key == "new"
    again = Rig(tmp_path, {"KEY": "new"})
    assert (await again.reloader.start()).version == outcome.version


def keyless(policy: Policy) -> str:
    """What the controller says of a policy without keys where anyone can reach the listener."""
    return open_to_all(policy, "0.0.0.0")


async def test_a_reload_never_opens_the_gateway_to_all(rig: Rig) -> None:
    rig.hooks.objects = keyless
    (rig.path.parent / "acme.sha256").write_text("a" * 64)
    rig.write(policy_text("v1", extra=KEYED))
    first = await rig.reloader.start()
    worker = rig.worker()
    await asyncio.sleep(0)
    rig.write(policy_text("v2"))
    outcome = await rig.reloader.reload()
    assert (outcome.result, outcome.version) == ("rejected", first.version)
    assert str(outcome.problems[0]) == (
        f"{rig.path}: no keys, and no `server: {{anonymous: true}}`: such a gateway listens on loopback only, not on 0.0.0.0"
    )
    assert rig.reloader.rejected is not None
    assert worker.version == first.version
    assert [kind for kind, _ in worker.orders()] == ["Prepare", "Swap"]  # no worker has even heard of it
    rig.write(policy_text("v2", extra="server: {anonymous: true}"))
    assert (await rig.reloader.reload()).result == "ok"


async def test_a_rollback_never_opens_the_gateway_to_all(rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loopback = await rig.reloader.start()
    rig.write(policy_text("v2", extra="server: {anonymous: true}"))
    second = await rig.reloader.reload()
    restarted = Rig(tmp_path)
    restarted.hooks.objects = keyless
    await restarted.reloader.start()
    outcome = await restarted.reloader.rollback()
    assert (outcome.result, outcome.version) == ("rejected", second.version)
    assert restarted.outcomes[-1] == outcome  # counted like any other
    assert f"rollback refused: stored version {loopback.version}: no keys, and no" in caplog.text
    assert not restarted.reloader.pinned
    assert restarted.reloader.rejected is None  # the file is in force


@pytest.mark.parametrize("spoilt", [False, True])
async def test_a_restart_never_opens_the_gateway_to_all(rig: Rig, tmp_path: Path, spoilt: bool, caplog: pytest.LogCaptureFixture) -> None:
    await rig.reloader.start()
    rig.write(policy_text("v2", extra="server: {anonymous: true}"))
    await rig.reloader.reload()
    rolled_back = await rig.reloader.rollback()
    if spoilt:
        rig.write("nonsense")
    restarted = Rig(tmp_path)  # the same folder, and now anyone can reach the listener
    restarted.hooks.objects = keyless
    with pytest.raises(PolicyError, match=f"stored version {rolled_back.version}: no keys"):
        await restarted.reloader.start()
    assert "the stored policy cannot be served: stored version" in caplog.text
    assert restarted.hooks.told == []


async def test_a_damaged_stored_version_is_passed_over(rig: Rig, tmp_path: Path) -> None:
    first = await rig.reloader.start()
    rig.write(policy_text("v2"))
    second = await rig.reloader.reload()
    stored = tmp_path / "state" / "versions" / second.version / "policy.yaml"
    stored.write_text(policy_text("v2", url="http://10.0.0.1:1"))
    rig.write("nonsense")
    assert (await Rig(tmp_path).reloader.start()).version == first.version


async def test_a_disk_that_cannot_be_written_rejects_and_keeps_serving(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await rig.reloader.start()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rig.versions, "put", full)
    rig.write(policy_text("v2"))
    outcome = await rig.reloader.reload()
    assert outcome.result == "rejected"
    assert "No space left" in str(outcome.problems[0])
    assert rig.reloader.version == first.version
