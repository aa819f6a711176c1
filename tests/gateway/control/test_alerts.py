"""What becomes an alert, and how it is delivered to a real receiver."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.control import webhooks as webhooks_module
from gateway.control.alerts import AlertDesk, Sources
from gateway.control.webhooks import Webhooks
from gateway.link.messages import Prepared, ReplicaState
from gateway.upstream.probe import ProbeView
from monitors.alerts import Alert
from tests.gateway.control.receiver import Receiver
from tests.gateway.control.rig import Rig, policy_text
from tests.gateway.link.examples import eventually


class World:
    """Everything that `Sources` looks at, to be set."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder)
        self.rig.write(policy_text("v1"))
        self.views: list[ProbeView] = []
        self.dropped = 0.0
        self.restarts: dict[str, int] = {"worker": 7}
        self.limited: dict[tuple[str, ...], float] = {("support",): 3.0}
        self.violations: dict[str, str] = {}
        self.now = 0.0
        self.told: list[tuple[str, str, str]] = []
        rig = self.rig
        self.sources = Sources(
            rig.reloader,
            rig.fleet,
            lambda: self.views,
            dropped=lambda: self.dropped,
            restarts=lambda: self.restarts,
            workers=1,
            limited=lambda: self.limited,
            violations=lambda: self.violations,
        )
        self.desk = AlertDesk(self.sources.conditions, self._tell, now=lambda: self.now)

    def _tell(self, alert: Alert) -> None:
        self.told.append((alert.name, alert.subject, alert.state))

    def look(self, after_s: float = 0.0) -> list[tuple[str, str, str]]:
        self.now += after_s
        self.told = []
        self.desk.look()
        return self.told


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    await world.rig.reloader.start()
    world.rig.worker(0)
    await asyncio.sleep(0)
    return world


async def test_all_is_well(world: World) -> None:
    world.views = [ProbeView(ReplicaState("small", "u", True), "")]
    assert world.look() == world.look(100) == []


async def test_a_wrong_file_fires_until_it_is_mended(world: World) -> None:
    world.rig.write("version: 1")
    await world.rig.reloader.reload()
    assert world.look() == [("policy_rejected", "", "firing")]
    assert "missing" in world.desk.board.firing()[0].message
    world.rig.write(policy_text("v1"))
    await world.rig.reloader.reload()
    assert world.look(1) == [("policy_rejected", "", "resolved")]


async def test_a_route_that_would_defer_more_than_it_may_fires_until_it_has_not_for_a_while(world: World) -> None:
    assert world.look() == []
    world.limited = {("support",): 5.0, ("chat",): 1.0}
    assert world.look(1) == [("defer_limit", "support", "firing"), ("defer_limit", "chat", "firing")]
    assert world.look(299) == []
    assert world.look(2) == [("defer_limit", "support", "resolved"), ("defer_limit", "chat", "resolved")]


async def test_a_broken_promise_fires_until_it_is_kept_again(world: World) -> None:
    world.look()
    world.violations["support"] = "route support lost more than the 1 % that its cascade promised"
    assert world.look(1) == [("audit_violation", "support", "firing")]
    assert world.look(3600) == []
    world.violations.clear()
    assert world.look(1) == [("audit_violation", "support", "resolved")]


async def test_a_replica_must_be_unready_for_a_while(world: World) -> None:
    world.views = [ProbeView(ReplicaState("small", "u", False), "ConnectError")]
    assert world.look() == world.look(29) == []
    assert world.look(2) == [("replica_unready", "small u", "firing")]
    assert world.desk.board.firing()[0].message == "small u is not ready: ConnectError"
    world.views = [ProbeView(ReplicaState("small", "u", True), "")]
    assert world.look(1) == [("replica_unready", "small u", "resolved")]


async def test_evidence_that_is_not_what_the_policy_says_fires_at_once(world: World) -> None:
    world.views = [ProbeView(ReplicaState("small", "u", True, evidence_ok=False), "no logprobs")]
    assert world.look() == [("evidence_mismatch", "small u", "firing")]


async def test_lost_records_fire_and_are_resolved_when_no_more_are_lost(world: World) -> None:
    world.dropped = 5
    assert world.look() == [("records_dropped", "", "firing")]
    assert world.look(200) == []
    world.dropped = 6
    assert world.look(50) == []
    assert world.look(299) == []
    assert world.look(2) == [("records_dropped", "", "resolved")]


async def test_restarts_from_before_the_controller_are_no_news(world: World) -> None:
    assert world.look() == []
    world.restarts = {"worker": 8}
    assert world.look(1) == [("process_restarts", "worker", "firing")]
    assert world.desk.board.firing()[0].message == "worker died and was started again (8 times so far)"


async def test_the_log_says_no_more_than_there_is(world: World, caplog: pytest.LogCaptureFixture) -> None:
    assert world.look() == []
    world.restarts = {**world.restarts, "controller": 1}
    world.dropped = 5
    world.look(1)
    told = {record.__dict__["alert"]: record.__dict__ for record in caplog.records if "alert" in record.__dict__}
    assert told["process_restarts"]["why"] == "controller died and was started again"
    assert told["process_restarts"]["subject"] == "controller"
    assert "subject" not in told["records_dropped"]


async def test_a_worker_that_is_missing_or_not_current_is_told(world: World) -> None:
    worker = world.rig.fleet.members[0].worker
    world.rig.fleet.on_message(worker, Prepared(world.rig.reloader.version, "no such file"))
    assert world.look() == []
    assert world.look(11) == [("worker_not_current", "worker-0", "firing")]
    worker.close()
    world.look(1)
    assert world.look(11) == [("worker_missing", "", "firing")]


ALERT = Alert("replica_unready", "small u", "firing", 12.0, "it does not answer", 12.0)


class Post:
    def __init__(self) -> None:
        self.results: Counter[str] = Counter()
        self.webhooks = Webhooks(lambda result: self.results.update([result]))


@pytest.fixture
async def post(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Post]:
    monkeypatch.setattr(webhooks_module, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(webhooks_module, "BACKOFF_MAX_S", 0.02)
    post = Post()
    yield post
    await post.webhooks.close()


async def test_an_alert_is_posted_as_json(post: Post) -> None:
    receiver = Receiver(200)
    await receiver.start()
    post.webhooks.set_urls([receiver.url])
    post.webhooks.post(ALERT, "v1")
    await eventually(lambda: post.results["ok"] == 1)
    assert receiver.bodies == [
        {
            "alert": "replica_unready",
            "state": "firing",
            "subject": "small u",
            "since": 12.0,
            "message": "it does not answer",
            "policy_version": "v1",
        }
    ]


@pytest.mark.parametrize(("statuses", "tries", "result"), [([500, 503, 204], 3, "ok"), ([500], 4, "failed"), ([404], 1, "failed")])
async def test_a_receiver_that_fails_is_tried_again_so_often(post: Post, statuses: list[int], tries: int, result: str) -> None:
    receiver = Receiver(*statuses)
    await receiver.start()
    post.webhooks.set_urls([receiver.url])
    post.webhooks.post(ALERT, "v1")
    await eventually(lambda: post.results[result] == 1)
    assert len(receiver.bodies) == tries


async def test_the_secret_in_a_url_is_not_logged(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    post.webhooks.set_urls(["http://127.0.0.1:1/hook?token=secret"])
    post.webhooks.post(ALERT, "v1")
    await eventually(lambda: post.results["failed"] == 1)
    assert "secret" not in caplog.text


async def test_a_receiver_that_hangs_costs_a_bounded_queue_and_delays_no_other(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks_module, "QUEUE_MAX", 3)
    hung, good = Receiver(200), Receiver(200)
    hung.hangs = True
    for receiver in (hung, good):
        await receiver.start()
    post.webhooks.set_urls([hung.url, good.url])
    post.webhooks.post(ALERT, "v1")
    await eventually(lambda: bool(hung.bodies) and post.results["ok"] == 1)
    for number in range(6):
        post.webhooks.post(ALERT, "v1")
        await eventually(lambda number=number: post.results["ok"] == 2 + number)  # type: ignore[misc]
    assert post.results["dropped"] == 3


async def test_a_webhook_that_the_policy_no_longer_names_is_let_go(post: Post) -> None:
    hung, good = Receiver(200), Receiver(200)
    hung.hangs = True
    for receiver in (hung, good):
        await receiver.start()
    post.webhooks.set_urls([hung.url])
    post.webhooks.post(ALERT, "v1")
    post.webhooks.post(ALERT, "v1")
    await eventually(lambda: bool(hung.bodies))
    post.webhooks.set_urls([good.url])
    assert post.results["dropped"] == 1
    post.webhooks.post(ALERT, "v2")
    await eventually(lambda: post.results["ok"] == 1)
    assert len(hung.bodies) == 1
