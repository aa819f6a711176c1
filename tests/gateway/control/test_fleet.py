"""What workers are told beside the policy."""

from __future__ import annotations

import asyncio

from gateway.control.fleet import Fleet
from gateway.link.messages import CascadeState, Prepare, ReplicaSeen, ReplicaState
from tests.gateway.control.rig import ScriptedWorker

ORDER = Prepare("v1", b"{}", "/files")


async def fleet_with(*numbers: int, expected: int = 0) -> tuple[Fleet, list[ScriptedWorker]]:
    fleet = Fleet(expected)
    workers = [ScriptedWorker(fleet, number) for number in numbers]
    for worker in workers:
        fleet.on_hello(worker)
    assert await fleet.prepare(ORDER) == []
    await fleet.swap(ORDER)
    return fleet, workers


async def test_nothing_is_told_before_the_first_policy() -> None:
    fleet = Fleet()
    worker = ScriptedWorker(fleet)
    fleet.on_hello(worker)
    fleet.set_replicas([ReplicaState("small", "u", True)])
    assert worker.heard == []
    await fleet.swap(ORDER)
    assert worker.overlays()[0].replicas == (ReplicaState("small", "u", True),)


async def test_the_live_workers_share_the_machine() -> None:
    fleet, workers = await fleet_with(0, 1)
    assert workers[0].overlays()[-1].workers == 2
    workers[1].close()
    assert workers[0].overlays()[-1].workers == 1
    fleet.on_hello(ScriptedWorker(fleet, 1))
    assert workers[0].overlays()[-1].workers == 2


async def test_after_a_restart_the_share_of_those_not_yet_back_is_kept_for_a_while() -> None:
    fleet, workers = await fleet_with(0, expected=4)
    assert [overlay.workers for overlay in workers[0].overlays()] == [4]
    fleet.settle()
    assert [overlay.workers for overlay in workers[0].overlays()] == [4, 1]


async def test_only_what_changes_is_told() -> None:
    fleet, workers = await fleet_with(0)
    before = len(workers[0].overlays())
    for _ in range(2):
        fleet.set_replicas([ReplicaState("small", "u", False)])
        fleet.set_alerts(["replica_unready"])
        fleet.set_cascades([CascadeState("chat", 1, False)])
    assert len(workers[0].overlays()) == before + 3
    assert workers[0].overlays()[-1].alerts == ("replica_unready",)
    assert workers[0].overlays()[-1].cascades == (CascadeState("chat", 1, False),)


async def test_breakers_are_kept_by_worker() -> None:
    fleet, workers = await fleet_with(0)
    fleet.on_message(workers[0], ReplicaSeen("small", "u", open=True))
    assert fleet.members[0].breakers_open == {("small", "u")}
    fleet.on_message(workers[0], ReplicaSeen("small", "u", open=False))
    assert fleet.members[0].breakers_open == set()


async def test_a_late_worker_that_cannot_prepare_what_is_in_force_is_marked_and_stays_connected() -> None:
    fleet, _ = await fleet_with(0)
    late = ScriptedWorker(fleet, 1)
    late.fails = "no such file"
    fleet.on_hello(late)
    await asyncio.sleep(0)
    assert fleet.members[1].error == "no such file"
    assert not late.closed


async def test_a_message_of_a_worker_that_has_gone_is_ignored() -> None:
    fleet, workers = await fleet_with(0)
    workers[0].close()
    fleet.on_message(workers[0], ReplicaSeen("small", "u", open=True))
    assert fleet.members == []
