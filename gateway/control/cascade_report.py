"""A ledger in figures: what the admin API, `headgate report cascade` and the metrics show of a cascade."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from gateway.control.ledger import Costs, Ledger, State
from gateway.control.promise import OnViolation, Promise

SAVING = (
    "1 - spent / all_to_last. spent: every call made for clients; one whose cost is not known, since it was cancelled, counts as the mean "
    "of its backend's others. all_to_last: deferred requests at the mean cost of their last stage, accepted ones at that of the audits' "
    "calls (of the deferred ones' where there are none). The audits' own cost is not in it"
)


class Cost(msgspec.Struct, frozen=True):
    """In one currency."""

    spent: float
    all_to_last: float
    saving: float
    audits: float
    currency: str


class CascadeReport(msgspec.Struct, frozen=True):
    """Of one route, since its cascade was last changed."""

    route: str
    state: State
    since: float
    """Unix time."""
    requests: int
    deferred_share: float | None
    low_confidence: int
    audited: int
    disagreed: int
    untold: dict[str, int]
    stale: int
    loss: float | None
    """Estimate of accepted share x share that disagrees, since the beginning or the last alarm; None before the first audit."""
    loss_lower: float
    loss_upper: float
    epsilon: float | None
    confidence: float
    bounded_audits: int
    """Audits that these bounds rest on."""
    on_violation: OnViolation
    violations: int
    violated_at: float | None
    tightened: int
    disabled: bool
    deferred_audited: int
    deferred_agreed: int
    cost: Cost | None
    no_cost: str
    """Why there is no cost; "" where there is."""
    versions: dict[str, tuple[float, float]]
    """Policy versions that count, with the percentages of accepted and deferred replies that they audit."""


def report(route: str, promise: Promise, ledger: Ledger) -> CascadeReport:
    """The figures of one ledger."""
    requests = sum(ledger.requests.values())
    cost, why = _cost(ledger.costs, ledger.requests)
    bounds = ledger.bounds
    return CascadeReport(
        route=route,
        state=ledger.state(promise),
        since=ledger.since,
        requests=requests,
        deferred_share=ledger.requests.get("deferred", 0) / requests if requests else None,
        low_confidence=ledger.requests.get("low_confidence", 0),
        audited=ledger.audited,
        disagreed=ledger.disagreed,
        untold=ledger.untold,
        stale=ledger.stale,
        loss=bounds.estimate,
        loss_lower=bounds.lower,
        loss_upper=bounds.upper,
        epsilon=promise.epsilon,
        confidence=promise.confidence,
        bounded_audits=bounds.audits,
        on_violation=ledger.on_violation,
        violations=ledger.violations,
        violated_at=ledger.violated_at,
        tightened=ledger.tightened,
        disabled=ledger.disabled,
        deferred_audited=ledger.deferred_audited,
        deferred_agreed=ledger.deferred_agreed,
        cost=cost,
        no_cost=why,
        versions=ledger.versions,
    )


def reports(found: Mapping[str, tuple[Promise, Ledger]]) -> list[CascadeReport]:
    """Of every cascade, in the order of the policy."""
    return [report(route, promise, ledger) for route, (promise, ledger) in found.items()]


def violation(found: CascadeReport) -> str | None:
    """What is wrong, for an alert; None while no promise is known to be broken."""
    if found.state not in ("broken", "disabled") or found.epsilon is None:
        return None
    follows = {"alert": "", "tighten": f"; thresholds tightened, step {found.tightened}", "disable": "; everything goes to the last stage"}
    return (
        f"route {found.route} lost more than the {100 * found.epsilon:g} % that its cascade promised, with {100 * found.confidence:g} % "
        f"confidence: {found.disagreed} of {found.audited} audited answers disagree with the last stage's{follows[found.on_violation]}"
    )


def gauges(found: Iterable[CascadeReport]) -> dict[str, dict[tuple[str, ...], float]]:
    """By metric and labels, of those cascades that are audited."""
    audited = [each for each in found if each.state != "not_audited"]
    loss: dict[tuple[str, ...], float] = {
        (each.route, name): value
        for each in audited
        for name, value in (("lower", each.loss_lower), ("estimate", each.loss), ("upper", each.loss_upper), ("epsilon", each.epsilon))
        if value is not None
    }
    return {
        "headgate_audit_loss": loss,
        "headgate_audit_promise": {(each.route, each.state): 1.0 for each in audited},
        "headgate_audit_tightened": {(each.route,): float(each.tightened) for each in audited},
    }


def _cost(costs: Costs, requests: Mapping[str, int]) -> tuple[Cost | None, str]:
    if not requests:
        return None, "no requests yet"
    if not costs.currencies:
        return None, "no backend has a price"
    if len(costs.currencies) > 1:
        return None, f"prices in several currencies: {', '.join(costs.currencies)}"
    spent = [known.whole for known in costs.calls.values()]
    deferred, accepted = costs.last_of_deferred.mean, costs.last_of_accepted.mean
    for_deferred = deferred if deferred is not None else accepted
    for_accepted = accepted if accepted is not None else deferred
    if for_deferred is None or for_accepted is None:
        return None, "what the last stage costs is not known yet"
    told = [each for each in spent if each is not None]
    if len(told) < len(spent):
        return None, "some backend has no price, or has not said what it used"
    count = requests.get("deferred", 0)
    all_to_last = count * for_deferred + (sum(requests.values()) - count) * for_accepted
    if all_to_last <= 0:
        return None, "the last stage costs nothing"
    return Cost(sum(told), all_to_last, 1 - sum(told) / all_to_last, costs.last_of_accepted.whole or 0.0, costs.currencies[0]), ""
