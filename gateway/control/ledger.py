"""The ledger of a cascade: what its records and its audits come to, and whether its promise holds.

    unconfirmed -> kept      the upper bound has come down to epsilon: too few audits before
    any of them -> broken    the watch has raised the alarm: at some time more than epsilon was lost
    broken      -> kept      a fresh count, begun with the alarm, has come down to epsilon

What follows an alarm is the policy's: nothing but the alert, thresholds that accept half as much at each alarm, or no stage at all.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from gateway.control.promise import OnViolation, Promise
from gateway.link.messages import AuditRecord, CascadeState, ExchangeRecord
from gateway.records.decided import ACCEPTED, DEFERRED, UNRELATED, decided
from monitors.audit import Bounds, Share, Watch

VERSIONS_MAX = 16
"""Policy versions whose records count: those that left the cascade as it is."""
CURRENCIES_MAX = 4
LOOK_AUDITS = 16
"""A broken promise is looked at again so often: a bound is a thousand times dearer than an audit."""
WHYS_MAX = 16

State: TypeAlias = Literal["not_audited", "no_promise", "unconfirmed", "kept", "broken", "disabled"]


class Known(msgspec.Struct):
    """Costs that are known, of so many calls; a call that was cancelled before it said what it used has none."""

    calls: int = 0
    priced: int = 0
    cost: float = 0.0

    def add(self, cost: float | None) -> None:
        self.calls += 1
        if cost is not None:
            self.priced += 1
            self.cost += cost

    @property
    def mean(self) -> float | None:
        return self.cost / self.priced if self.priced else None

    @property
    def whole(self) -> float | None:
        """Of all calls, those without a cost taken for as dear as the others; None where nothing is known."""
        if not self.calls:
            return 0.0
        return None if self.mean is None else self.mean * self.calls


class Costs(msgspec.Struct):
    """What was spent, and what tells what the last stage alone would have cost."""

    calls: dict[str, Known] = {}
    """By backend: calls made for clients."""
    last_of_deferred: Known = msgspec.field(default_factory=Known)
    last_of_accepted: Known = msgspec.field(default_factory=Known)
    """The calls of audits: a sample of what accepted requests would have cost there."""
    currencies: list[str] = []


class Ledger(msgspec.Struct):
    """Of one route. It goes on from its fields after a restart."""

    key: str
    """`Promise.key`: another one begins anew."""
    since: float
    """Unix time."""
    versions: dict[str, tuple[float, float]]
    """Policy versions, oldest first, with the percentages of accepted and deferred replies that they audit."""
    on_violation: OnViolation
    bounds: Bounds
    """Since the beginning or the last alarm."""
    watch: Watch | None
    """None where nothing is promised."""
    share: Share = msgspec.field(default_factory=Share)
    requests: dict[str, int] = {}
    """By what was decided (`gateway.records.decided`)."""
    audited: int = 0
    """Accepted replies whose audit could be told."""
    disagreed: int = 0
    untold: dict[str, int] = {}
    """Audits of accepted replies that could not be told, by why."""
    stale: int = 0
    """Audits of replies that were held against other thresholds than today's: not in the bounds."""
    deferred_audited: int = 0
    deferred_agreed: int = 0
    violations: int = 0
    violated_at: float | None = None
    broken: bool = False
    costs: Costs = msgspec.field(default_factory=Costs)

    @property
    def tightened(self) -> int:
        """How often the thresholds have been tightened."""
        return self.violations if self.on_violation == "tighten" else 0

    @property
    def disabled(self) -> bool:
        """The cascade is switched off: everything goes to the last stage."""
        return self.on_violation == "disable" and self.violations > 0

    def state(self, promise: Promise) -> State:
        """Whether the promise holds, as far as is known."""
        if not promise.audited:
            return "not_audited"
        if self.disabled:
            return "disabled"
        if self.watch is None:
            return "no_promise"
        if self.broken:
            return "broken"
        return "kept" if self.bounds.upper <= self.watch.epsilon else "unconfirmed"

    def overlay(self, route: str) -> CascadeState | None:
        """What workers must know of it; None where there is nothing."""
        return CascadeState(route, self.tightened, self.disabled) if self.tightened or self.disabled else None

    def adopt(self, version: str, promise: Promise) -> None:
        """A policy version that leaves the cascade as it is has come into force."""
        self.versions.pop(version, None)
        self.versions[version] = (promise.accepted_percent, promise.deferred_percent)
        while len(self.versions) > VERSIONS_MAX:
            del self.versions[next(iter(self.versions))]

    def take(self, record: ExchangeRecord, promise: Promise, now: float) -> bool:
        """Count one record; True where its audit has raised the alarm."""
        verdict = decided(record)
        if verdict is None or record.policy_version not in self.versions:
            return False
        self.requests[verdict] = self.requests.get(verdict, 0) + 1
        self._spend(record, promise, verdict)
        judgements = record.findings.judgements if record.findings is not None else ()
        stale = any(promise.stale(each.backend, each.bound, self.tightened) for each in judgements)
        alarmed = False
        for audit in record.audits:
            if audit.purpose == ACCEPTED:
                alarmed |= self._audit(audit, promise, now, stale=stale)
            elif audit.purpose == DEFERRED and audit.agreed is not None:
                self.deferred_audited += 1
                self.deferred_agreed += audit.agreed
        if verdict != "low_confidence" and not stale and not alarmed:
            self.share.add(verdict == "accepted")
        return alarmed

    def _audit(self, audit: AuditRecord, promise: Promise, now: float, *, stale: bool) -> bool:
        """The accepted share is that of before: a bet is made before its outcome is known."""
        if audit.agreed is None:
            why = audit.why if audit.why in self.untold or len(self.untold) < WHYS_MAX else "other"
            self.untold[why] = self.untold.get(why, 0) + 1
            if audit.why in UNRELATED:
                return False
        else:
            self.audited += 1
            self.disagreed += not audit.agreed
        if stale:
            self.stale += 1
            return False
        share = self.share.value
        self.bounds.add(share, audit.agreed)
        if self.watch is None:
            return False
        self.watch.add(share if audit.agreed is False else 0.0)
        if self.watch.alarmed:
            self.bounds, self.watch = _count(promise)
            self.violations += 1
            if self.on_violation == "tighten":
                self.share = Share()  # less is accepted from now on
            self.violated_at = now
            self.broken = True
            return True
        if self.broken and self.bounds.audits % LOOK_AUDITS == 0 and self.bounds.upper <= self.watch.epsilon:
            self.broken = False
        return False

    def _spend(self, record: ExchangeRecord, promise: Promise, verdict: str) -> None:
        costs = self.costs
        for call in record.calls:
            if call.currency and call.currency not in costs.currencies and len(costs.currencies) < CURRENCIES_MAX:
                costs.currencies.append(call.currency)
            costs.calls.setdefault(call.backend, Known()).add(call.cost)
            if verdict == "deferred" and call.backend in promise.last and call.result == "ok":
                costs.last_of_deferred.add(call.cost)
        for audit in record.audits:
            if audit.call is not None and audit.call.result == "ok":
                costs.last_of_accepted.add(audit.call.cost)


def begin(promise: Promise, version: str, now: float) -> Ledger:
    """An empty ledger."""
    bounds, watch = _count(promise)
    return Ledger(promise.key, now, {version: (promise.accepted_percent, promise.deferred_percent)}, promise.on_violation, bounds, watch)


def _count(promise: Promise) -> tuple[Bounds, Watch | None]:
    epsilon = promise.epsilon
    # An epsilon of 1 or more, of several stages together, cannot be broken.
    watched = epsilon is not None and 0 < epsilon < 1
    return Bounds(promise.confidence), Watch(epsilon, promise.confidence) if epsilon is not None and watched else None
