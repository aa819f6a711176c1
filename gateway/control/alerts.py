"""What is wrong with the gateway itself, as alerts: conditions are gathered on every look, `monitors.alerts` says what they mean."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from gateway.control.fleet import Fleet
from gateway.control.reload import Reloader
from gateway.upstream.probe import ProbeView
from monitors.alerts import Alert, Board, Key, Rule

log = logging.getLogger(__name__)

RULES = {
    rule.name: rule
    for rule in (
        Rule("policy_rejected"),
        Rule("replica_unready", for_s=30.0),
        Rule("evidence_mismatch"),
        Rule("records_dropped", clear_s=300.0),
        Rule("process_restarts", clear_s=300.0),
        Rule("defer_limit", clear_s=300.0),
        Rule("audit_violation"),
        Rule("worker_missing", for_s=10.0),
        Rule("worker_not_current", for_s=10.0),
    )
}


class Sources:
    """Gathers every condition that holds. Counters are conditions while they grow."""

    def __init__(
        self,
        reloader: Reloader,
        fleet: Fleet,
        replicas: Callable[[], Iterable[ProbeView]],
        dropped: Callable[[], float],
        restarts: Callable[[], Mapping[str, int]],
        workers: int,
        limited: Callable[[], Mapping[tuple[str, ...], float]] = dict,
        violations: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """`limited`: replies by route that were not deferred since `defer_limit` was exceeded. `violations`: what audits have found,
        by route, in words."""
        self._reloader = reloader
        self._fleet = fleet
        self._replicas = replicas
        self._dropped = dropped
        self._restarts = restarts
        self._workers = workers
        self._limited = limited
        self._violations = violations
        self._dropped_before = dropped()
        self._limited_before = dict(limited())
        self._restarts_before: dict[str, int] = dict(restarts())

    def conditions(self) -> dict[Key, str]:
        """By (rule, subject): what is wrong, in words."""
        found: dict[Key, str] = {}
        if self._reloader.rejected is not None:
            problems = self._reloader.rejected.problems
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            found["policy_rejected", ""] = f"{problems[0]}{more}" if problems else "the policy file was rejected"
        for view in self._replicas():
            subject = f"{view.state.backend} {view.state.replica}"
            if not view.state.ready:
                found["replica_unready", subject] = f"{subject} is not ready: {view.message}"
            elif not view.state.evidence_ok:
                found["evidence_mismatch", subject] = f"{subject} does not give the evidence that the policy declares: {view.message}"
        found |= self._growth()
        found |= {("audit_violation", route): why for route, why in self._violations().items()}
        members = self._fleet.members
        if len(members) < self._workers:
            found["worker_missing", ""] = f"{len(members)} of {self._workers} workers are connected"
        for member in members:
            if member.error or member.version != self._reloader.version:
                found["worker_not_current", f"worker-{member.worker.hello.worker}"] = member.error or "it serves an older policy"
        return found

    def _growth(self) -> dict[Key, str]:
        found: dict[Key, str] = {}
        dropped = self._dropped()
        if dropped > self._dropped_before:
            found["records_dropped", ""] = f"{dropped - self._dropped_before:.0f} records were lost"
        self._dropped_before = dropped
        limited = dict(self._limited())
        for labels, count in limited.items():
            if count > self._limited_before.get(labels, 0):
                route = labels[0]
                found["defer_limit", route] = (
                    f"route {route} would defer more than its defer_limit allows: {count:.0f} replies so far were not"
                )
        self._limited_before = limited
        restarts = dict(self._restarts())
        for process, count in restarts.items():
            if count > self._restarts_before.get(process, 0):
                so_far = f" ({count} times so far)" if count > 1 else ""
                found["process_restarts", process] = f"{process} died and was started again{so_far}"
        self._restarts_before = restarts
        return found


class AlertDesk:
    """Keeps the board, and hands on what changes."""

    def __init__(
        self, conditions: Callable[[], Mapping[Key, str]], tell: Callable[[Alert], None], now: Callable[[], float] = time.time
    ) -> None:
        self._conditions = conditions
        self._tell = tell
        self._now = now
        self.board = Board()

    def look(self) -> bool:
        """Evaluate once; True where an alert began to fire or was resolved."""
        self.board, told = self.board.evaluate(RULES, self._conditions(), self._now())
        for alert in told:
            subject = {"subject": alert.subject} if alert.subject else {}
            log.warning("alert %s", alert.state, extra={"alert": alert.name, **subject, "why": alert.message})
            self._tell(alert)
        return bool(told)
