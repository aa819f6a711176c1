"""Drives a policy's plan for one request without calling anybody: the same code as in the worker, with outcomes assumed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gateway.cli.assumptions import Assumed
from gateway.errors import ApiError
from gateway.exchange.failure import api_error
from gateway.exchange.features import features
from gateway.protocol.body import decode
from gateway.records.story import worded_judgement
from gateway.server.accept import check_conversation, no_route
from gateway.upstream.kinds import objection
from gateway.wire.request import Request
from policies.detector import UNANSWERED
from policies.match import CompiledMatch
from policies.ood.text import guard_text, request_turns
from policies.plan import (
    CALLS_MAX,
    Answer,
    Assess,
    Assessment,
    Call,
    Endpoint,
    Features,
    Hold,
    Mirror,
    Outcome,
    Plan,
    Race,
    Refuse,
    RouteState,
    advance,
)
from policies.schema import Key
from policies.snapshot import NoRoute, Snapshot
from policies.units import show_duration

EXCHANGE_ID = "explain"


class Considered(msgspec.Struct, frozen=True):
    """A route, in file order, and why it does or does not take the request."""

    route: str
    taken: bool
    why: str


class Step(msgspec.Struct, frozen=True):
    """One call and what was assumed to come of it."""

    backend: str
    hold: str
    outcome: str
    why: str = ""
    """What was made of it, where it was judged."""


class Explanation(msgspec.Struct, frozen=True):
    """One request's way through a policy."""

    policy_version: str
    endpoint: str
    model: str
    stream: bool
    key: str | None
    considered: tuple[Considered, ...]
    route: str | None
    segments: Mapping[str, str]
    unit: str | None
    steps: tuple[Step, ...]
    verdict: str
    status: int
    """Of the answer: 200, or the error's."""
    backend: str | None
    reason: str | None
    guard: str | None = None
    """What the guard found."""
    ood: str | None = None
    low_confidence: bool = False
    mirrors: tuple[Mirror, ...] = ()


def explain(
    snapshot: Snapshot, raw: bytes, *, endpoint: Endpoint, key: Key | None, headers: Mapping[str, str], assumed: Assumed
) -> Explanation:
    """Walk one request. Raises ApiError where the request itself is refused before it is routed."""
    request = Request(b"POST", b"", b"", {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in headers.items()})
    body = decode(raw, endpoint)
    known = features(EXCHANGE_ID, request, body, key, snapshot.needs)
    if assumed.defer_limited:
        known = msgspec.structs.replace(known, routes={name: RouteState(defer_limited=True) for name in snapshot.stateful})
    considered = tuple(consider(snapshot, known, key))
    decision = snapshot.decide(known)
    base = Explanation(snapshot.version, endpoint, body.model, body.stream, known.key, considered, None, {}, None, (), "", 200, None, None)
    try:
        if isinstance(decision, NoRoute):
            raise no_route(decision, body.model)
        base = msgspec.structs.replace(base, route=decision.route.name, segments=dict(decision.segments), unit=decision.unit)
        check_conversation(body, decision)
    except ApiError as refused:
        return msgspec.structs.replace(base, verdict=f"refused: {refused.message}", status=refused.status)
    objections = {name: error for name in decision.route.backends if (error := objection(snapshot.backends[name], body)) is not None}
    walk = Walk(snapshot, raw, body.stream, msgspec.structs.replace(assumed, failures={**assumed.failures, **objections}))
    verdict = walk.drive(decision.plan)
    return msgspec.structs.replace(base, steps=tuple(walk.steps(verdict)), guard=walk.guard, ood=verdict.ood, **worded(verdict, endpoint))


def consider(snapshot: Snapshot, known: Features, key: Key | None) -> Iterable[Considered]:
    """Each route up to the one that takes the request, and why the ones before it do not."""
    for route in snapshot.policy.routes:
        reasons = [_why_not(match.models, CompiledMatch(match), known) for match in route.matches]
        if "" not in reasons:
            yield Considered(route.name, False, "; ".join(dict.fromkeys(reasons)))
        elif key is not None and key.routes is not None and route.name not in key.routes:
            yield Considered(route.name, False, f"key {key.name} may not use it")
        else:
            yield Considered(route.name, True, f"matches[{reasons.index('')}] fits")
            return


def _why_not(models: tuple[str, ...], match: CompiledMatch, known: Features) -> str:
    if models and known.model not in models:
        return f"model {known.model!r} is not one of {', '.join(models)}"
    if not match.headers_fit(known.headers):
        return "the headers do not fit"
    if not match.labels_fit(known.labels):
        return f"the labels of {f'key {known.key}' if known.key else 'a request without key'} do not fit"
    return ""


class Walk:
    """Drives a plan to its verdict on assumed outcomes."""

    def __init__(self, snapshot: Snapshot, raw: bytes, stream: bool, assumed: Assumed) -> None:
        self._snapshot = snapshot
        self._raw = raw
        self._stream = stream
        self._assumed = assumed
        self._calls: list[tuple[Call | Race, Outcome]] = []
        self.guard: str | None = None
        """What the guard found, in words."""

    def drive(self, plan: Plan) -> Answer | Refuse:
        """Raises RuntimeError for a plan that asks for more calls than an exchange may make."""
        made = 0
        step = advance(plan, None)
        while not isinstance(step, Answer | Refuse):
            if isinstance(step, Assess):
                step = advance(plan, self._assess(step))
                continue
            made += len(step.calls) if isinstance(step, Race) else 1
            if made > CALLS_MAX:
                raise RuntimeError(f"the plan asked for more than {CALLS_MAX} calls")
            outcome = self._assumed.outcome(step, len(self._calls))
            self._calls.append((step, outcome))
            step = advance(plan, outcome)
        return step

    def steps(self, verdict: Answer | Refuse) -> Iterable[Step]:
        """Each call, and each stage that was not asked, with what was made of it."""
        judged: set[int] = set()
        for each in verdict.judgements:
            if each.call is None:
                yield Step(each.backend, "not asked", "", worded_judgement(each))
            else:
                judged.add(each.call)
                yield self._step(each.call, worded_judgement(each))
        yield from (self._step(number) for number in range(len(self._calls)) if number not in judged)

    def _step(self, number: int, why: str = "") -> Step:
        verb, outcome = self._calls[number]
        call = verb.calls[0] if isinstance(verb, Race) else verb
        hold = worded_hold(call.hold, stream=self._stream) + (f", {worded_hedge(verb)}" if isinstance(verb, Race) else "")
        return Step(call.backend, hold, f"fails: {outcome.error.message}" if outcome.error else "answers", why)

    def _assess(self, verb: Assess) -> Assessment:
        detector = self._snapshot.detectors[verb.detector]
        if self._assumed.ood is not None:
            inside = {"true": False, "false": True, "unscored": None}[self._assumed.ood]
            found = Assessment("unavailable" if inside is None else "ok", None, None, inside)
        else:
            text = guard_text(request_turns(msgspec.json.decode(self._raw)), detector.text)
            found = detector.assess(text, verb.segment) or UNANSWERED
        self.guard = f"{verb.detector}: {worded_assessment(found, detector.threshold(verb.segment))}"
        return found


def worded_assessment(found: Assessment, threshold: float) -> str:
    """What a detector found, in words."""
    if found.unanswered:
        return "unscored: it needs a sentence encoder, which is not run here; --ood true or --ood false assumes what it finds"
    if found.in_distribution is None:
        return "unscored: the request has no text"
    where = "in distribution" if found.in_distribution else "out of distribution"
    if found.score is None:
        return f"{where}, as assumed"
    side = "at most" if found.in_distribution else "above"
    return f"{where}: score {found.score:.4g} is {side} {threshold:.4g} (energy {found.energy:.4g})"


def worded_hedge(race: Race) -> str:
    """What stands beside a call that is slow."""
    after = race.after if isinstance(race.after, str) else show_duration(race.after)
    return f"beside {'another replica' if race.other_replica else race.calls[1].backend} after {after}"


def worded_hold(hold: Hold, *, stream: bool) -> str:
    """What must have arrived before the policy judges a reply; one that is not streamed arrives whole."""
    if not stream:
        return f"whole answer, judged by its first {hold.tokens} tokens" if hold.tokens else "whole answer"
    if hold.all:
        return "held to its end"
    if hold.tokens:
        return f"held for {hold.tokens} tokens, {hold.for_ms} ms at most" if hold.for_ms else f"held for {hold.tokens} tokens"
    return "held to its first content"


def worded(verdict: Answer | Refuse, endpoint: str) -> dict[str, Any]:
    """The fields of an explanation that say how it ended."""
    if isinstance(verdict, Refuse):
        return {"verdict": f"refused by the policy: {verdict.message}", "status": verdict.status}
    backend = verdict.outcome.backend
    if verdict.outcome.error is None:
        flagged = ", flagged low confidence" if verdict.low_confidence else ""
        return {
            "verdict": f"{backend} serves it ({verdict.reason}){flagged}",
            "status": 200,
            "backend": backend,
            "reason": verdict.reason,
            "low_confidence": verdict.low_confidence,
            "mirrors": verdict.mirrors,
        }
    error = api_error(verdict.outcome.error, backend, endpoint)
    return {"verdict": f"the client gets the error {error.status}: {error.message}", "status": error.status, "reason": verdict.reason}
