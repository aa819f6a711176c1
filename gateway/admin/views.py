"""What the admin API shows: the state of the control plane as plain values."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from gateway.control.alerts import AlertDesk
from gateway.control.cascade_report import SAVING, CascadeReport
from gateway.control.fleet import Fleet, Member
from gateway.control.reload import Reloader
from gateway.telemetry.metrics import Exposition
from gateway.upstream.probe import ProbeView
from monitors.alerts import Alert
from policies.errors import Problem


class Views:
    """Reads, and changes nothing."""

    def __init__(
        self,
        reloader: Reloader,
        fleet: Fleet,
        desk: AlertDesk,
        exposition: Exposition,
        replicas: Callable[[], Iterable[ProbeView]],
        workers: int,
        cascades: Callable[[], Iterable[CascadeReport]] = tuple,
    ) -> None:
        """`workers` is how many there should be; `cascades` are the ledgers in figures."""
        self._reloader = reloader
        self._fleet = fleet
        self._desk = desk
        self._exposition = exposition
        self._replicas = replicas
        self._workers = workers
        self._cascades = cascades
        self._started_at = time.time()

    def status(self) -> dict[str, Any]:
        rejected = self._reloader.rejected
        return {
            "version": self._reloader.version,
            "in_force_since": self._reloader.in_force_since,
            "previous": self._reloader.previous,
            "pinned": self._reloader.pinned,
            "rejected": None if rejected is None else {"at": rejected.at, "problems": problems(rejected.problems)},
            "uptime_s": time.time() - self._started_at,
            "workers_wanted": self._workers,
            "workers": [self._worker(member) for member in self._fleet.members],
            "backends": self.backends(),
            "cascades": [shown_promise(each) for each in self._cascades()],
            "records": {
                "waiting_for_link": int(self._exposition.value("headgate_records_queue_depth")),
                "waiting_for_store": int(self._exposition.value("headgate_records_queue_wait")),
                "store_bytes": int(self._exposition.value("headgate_records_store_bytes")),
            },
            "exchanges_in_flight": int(self._exposition.value("headgate_exchanges_in_flight")),
            "alerts": [shown_alert(alert) for alert in self._desk.board.firing()],
        }

    def _worker(self, member: Member) -> dict[str, Any]:
        hello = member.worker.hello
        return {
            "worker": hello.worker,
            "pid": hello.pid,
            "since": member.since,
            "version": member.version,
            "error": member.error,
            "breakers_open": [f"{backend} {replica}" for backend, replica in sorted(member.breakers_open)],
        }

    def backends(self) -> list[dict[str, Any]]:
        current = self._reloader.current
        if current is None:
            return []
        in_flight = self._exposition.values("headgate_upstream_in_flight")
        queued = self._exposition.values("headgate_upstream_queue_depth")
        found: dict[str, list[ProbeView]] = {}
        for view in self._replicas():
            found.setdefault(view.state.backend, []).append(view)
        return [
            {
                "backend": backend.name,
                "kind": backend.kind,
                "model": backend.model,
                "evidence": backend.evidence,
                "in_flight": int(in_flight.get((backend.name,), 0)),
                "queue_depth": int(queued.get((backend.name,), 0)),
                "replicas": [self._replica(view) for view in found.get(backend.name, ())],
            }
            for backend in current.loaded.policy.backends
        ]

    def _replica(self, view: ProbeView) -> dict[str, Any]:
        state = view.state
        return {
            "replica": state.replica,
            "ready": state.ready,
            "evidence_ok": state.evidence_ok,
            "breakers_open": sum((state.backend, state.replica) in member.breakers_open for member in self._fleet.members),
            "message": view.message,
        }

    def policy(self) -> dict[str, Any]:
        """The policy in force with every default filled in and every secret replaced by its hash."""
        current = self._reloader.current
        assert current is not None, "nothing is shown before the first policy"
        return {
            "version": self._reloader.version,
            "policy": msgspec.Raw(current.loaded.canonical),
            "warnings": problems(current.loaded.warnings),
        }

    async def versions(self) -> list[dict[str, Any]]:
        return [
            {
                "version": facts.version,
                "stored_at": facts.stored_at,
                "in_force": facts.version == self._reloader.version,
                "previous": facts.version == self._reloader.previous,
            }
            for facts in await self._reloader.stored()
        ]

    def cascades(self) -> dict[str, Any]:
        """Every cascade's ledger, and how its saving is defined."""
        return {"cascades": list(self._cascades()), "saving": SAVING}

    def alerts(self) -> list[dict[str, Any]]:
        return [shown_alert(alert) for alert in self._desk.board.alerts.values()]


def problems(found: Iterable[Problem]) -> list[dict[str, Any]]:
    """Each with its parts, and with the line that people read."""
    return [{**msgspec.structs.asdict(each), "text": str(each)} for each in found]


def shown_promise(found: CascadeReport) -> dict[str, Any]:
    """A cascade in one line."""
    return {
        "route": found.route,
        "promise": found.state,
        "requests": found.requests,
        "deferred_share": found.deferred_share,
        "audited": found.audited,
        "loss_at_most": found.loss_upper if found.bounded_audits else None,
        "epsilon": found.epsilon,
        "tightened": found.tightened,
        "disabled": found.disabled,
    }


def shown_alert(alert: Alert) -> dict[str, Any]:
    """An alert as the webhooks name its parts."""
    return {"alert": alert.name, "subject": alert.subject, "state": alert.state, "since": alert.since, "message": alert.message}
