"""One version for the whole of an exchange; the next one swapped in whole; the old one let go with its last lease."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gateway.exchange.snapshot import PREPARED_MAX, Snapshots
from gateway.link.messages import CascadeState
from gateway.telemetry.counters import Counters
from gateway.upstream.base import Upstream
from gateway.upstream.fake import FakeUpstream
from policies import schema
from policies.plan import RouteState
from policies.snapshot import Snapshot
from tests.policies import building


class Rig:
    def __init__(self) -> None:
        self.counters = Counters()
        self.opened: list[FakeUpstream] = []
        self.broken: str | None = None
        self.snapshots = Snapshots(self._open, self.counters)  # type: ignore[arg-type]  # the fake leaves out what no test here asks

    def _open(self, backend: schema.Backend) -> FakeUpstream:
        if backend.name == self.broken:
            raise ValueError("an api_key holds characters that no header may carry")
        upstream = FakeUpstream(backend.name)
        self.opened.append(upstream)
        return upstream

    @property
    def alive(self) -> float:
        return self.counters.counter("headgate_snapshots_alive").value

    def put_in_force(self, snapshot: Snapshot) -> None:
        self.snapshots.prepare(snapshot)
        self.snapshots.swap(snapshot.version)


def snapshot(*backends: dict[str, Any], **more: Any) -> Snapshot:
    return building.snapshot(building.policy(backends=list(backends) or [building.backend()], **more))


def test_preparing_changes_nothing_until_the_swap() -> None:
    rig = Rig()
    first, second = snapshot(), snapshot(server={"deadline": "5m"})
    rig.put_in_force(first)
    rig.snapshots.prepare(second)
    assert rig.snapshots.current is not None
    assert rig.snapshots.current.version == first.version
    rig.snapshots.swap(second.version)
    assert rig.snapshots.current.version == second.version


def test_what_audits_have_done_reaches_the_policy_in_force_and_the_next_one() -> None:
    cascade = {"stages": [{"backend": "small"}], "last": "big", "defer_limit": {"percent": 40}}
    routes = [building.route("chat", cascade=cascade), building.route("plain")]
    backends = (building.backend("small"), building.backend("big"))

    def state() -> RouteState:
        assert rig.snapshots.current is not None
        return rig.snapshots.current.states(0.0)["chat"]

    rig = Rig()
    rig.snapshots.set_cascades((CascadeState("chat", 2, False), CascadeState("gone", 1, True)))
    rig.put_in_force(snapshot(*backends, routes=routes))
    assert state() == RouteState(tightened=2)
    rig.snapshots.prepare(snapshot(*backends, routes=routes, server={"deadline": "5m"}))
    rig.snapshots.set_cascades((CascadeState("chat", 0, True),))
    assert state() == RouteState(disabled=True)
    rig.snapshots.swap(next(iter(rig.snapshots._prepared)))
    assert state() == RouteState(disabled=True)
    rig.snapshots.set_cascades(())
    assert state() == RouteState()


def test_what_was_not_prepared_cannot_be_swapped_in() -> None:
    rig = Rig()
    rig.put_in_force(snapshot())
    before = rig.snapshots.current
    with pytest.raises(KeyError):
        rig.snapshots.swap("v-unknown")
    assert rig.snapshots.current is before


def test_a_version_lives_until_its_last_lease_is_given_back() -> None:
    rig = Rig()
    rig.put_in_force(snapshot())
    first = rig.snapshots.current
    assert first is not None
    first.lease()
    first.lease()
    rig.put_in_force(snapshot(building.backend("small", model="another")))
    assert rig.alive == 2
    first.release()
    assert not rig.opened[0].closed
    first.release()
    assert rig.opened[0].closed
    assert not rig.opened[1].closed
    assert rig.alive == 1


def test_a_lease_given_back_before_the_swap_retires_nothing() -> None:
    rig = Rig()
    rig.put_in_force(snapshot())
    live = rig.snapshots.current
    assert live is not None
    live.lease()
    live.release()
    assert not rig.opened[0].closed
    assert rig.alive == 1


def test_a_backend_that_stays_as_it_was_keeps_its_upstream() -> None:
    rig = Rig()
    rig.put_in_force(snapshot(building.backend("small"), building.backend("big")))
    small, big = rig.opened
    rig.put_in_force(snapshot(building.backend("small"), building.backend("big", model="another"), server={"deadline": "5m"}))
    assert [upstream.name for upstream in rig.opened] == ["small", "big", "big"]
    assert (small.closed, big.closed) == (False, True)
    assert rig.snapshots.upstreams == cast(list[Upstream], [small, rig.opened[2]])


def test_going_back_to_a_version_that_still_has_leases_finds_its_upstream() -> None:
    rig = Rig()
    old, new = snapshot(), snapshot(building.backend("small", model="another"))
    rig.put_in_force(old)
    live = rig.snapshots.current
    assert live is not None
    live.lease()
    rig.put_in_force(new)
    rig.put_in_force(old)
    live.release()
    assert len(rig.opened) == 2
    assert not rig.opened[0].closed


def test_a_version_that_cannot_be_prepared_leaves_nothing_behind() -> None:
    rig = Rig()
    rig.put_in_force(snapshot())
    before = rig.snapshots.current
    rig.broken = "big"
    with pytest.raises(ValueError, match="api_key"):
        rig.snapshots.prepare(snapshot(building.backend("small"), building.backend("huge"), building.backend("big")))
    assert rig.snapshots.current is before
    assert rig.alive == 1
    small, huge = rig.opened
    assert (small.closed, huge.closed) == (False, True)
    assert rig.snapshots.upstreams == cast(list[Upstream], [small])


def test_a_version_that_is_discarded_gives_its_upstreams_back() -> None:
    rig = Rig()
    rig.put_in_force(snapshot())
    other = snapshot(building.backend("small", model="another"))
    rig.snapshots.prepare(other)
    rig.snapshots.discard(other.version)
    rig.snapshots.discard(other.version)
    assert [upstream.closed for upstream in rig.opened] == [False, True]
    with pytest.raises(KeyError):
        rig.snapshots.swap(other.version)


def test_preparing_a_version_twice_makes_it_once() -> None:
    rig = Rig()
    version = snapshot()
    rig.snapshots.prepare(version)
    rig.snapshots.prepare(version)
    assert len(rig.opened) == 1
    assert rig.alive == 1
    rig.snapshots.swap(version.version)
    assert not rig.opened[0].closed


def test_only_so_many_versions_wait_for_their_swap() -> None:
    rig = Rig()
    versions = [snapshot(building.backend("small", model=f"m-{number}")) for number in range(PREPARED_MAX + 2)]
    for version in versions:
        rig.snapshots.prepare(version)
    assert rig.alive == PREPARED_MAX
    assert [upstream.closed for upstream in rig.opened] == [True, True] + [False] * PREPARED_MAX
    with pytest.raises(KeyError):
        rig.snapshots.swap(versions[0].version)
    rig.snapshots.swap(versions[-1].version)
