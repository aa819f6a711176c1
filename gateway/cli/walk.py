"""Drives a policy's plan for one request without calling anybody: the same code as in the worker, with outcomes assumed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

import msgspec

from gateway.errors import ApiError
from gateway.exchange.failure import api_error
from gateway.exchange.features import features
from gateway.exchange.leg import REQUEST_FAULTS
from gateway.protocol.body import decode
from gateway.server.accept import check_conversation, no_route
from gateway.upstream.kinds import objection
from gateway.wire.request import Request
from policies.match import CompiledMatch
from policies.plan import CALLS_MAX, Answer, Call, CallError, Endpoint, ErrorKind, Features, Hold, Outcome, Plan, Refuse
from policies.schema import Key
from policies.snapshot import NoRoute, Snapshot

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


def explain(
    snapshot: Snapshot, raw: bytes, *, endpoint: Endpoint, key: Key | None, headers: Mapping[str, str], failures: Mapping[str, CallError]
) -> Explanation:
    """Walk one request; `failures` are the backends that are assumed to fail, every other one answers. Raises ApiError where
    the request itself is refused before it is routed."""
    request = Request(b"POST", b"", b"", {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in headers.items()})
    body = decode(raw, endpoint)
    known = features(EXCHANGE_ID, request, body, key, snapshot.needs)
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
    steps, verdict = drive(decision.plan, {**failures, **objections}, stream=body.stream)
    return msgspec.structs.replace(base, steps=tuple(steps), **worded(verdict, endpoint))


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


def drive(plan: Plan, failures: Mapping[str, CallError], *, stream: bool) -> tuple[list[Step], Answer | Refuse]:
    """Run a plan to its verdict. Raises RuntimeError for one that asks for more calls than an exchange may make."""
    steps: list[Step] = []
    outcome: Outcome | None = None
    try:
        verb: Call = next(plan)
        while len(steps) < CALLS_MAX:
            error = failures.get(verb.backend)
            outcome = Outcome(len(steps), verb.backend, error, complete=error is None and verb.hold.all)
            steps.append(Step(verb.backend, worded_hold(verb.hold, stream=stream), f"fails: {error.message}" if error else "answers"))
            verb = plan.send(outcome)
    except StopIteration as ended:
        verdict: Answer | Refuse = ended.value
        return steps, verdict
    raise RuntimeError(f"the plan asked for more than {CALLS_MAX} calls")


def worded_hold(hold: Hold, *, stream: bool) -> str:
    """What must have arrived before the policy judges a reply; one that is not streamed arrives whole."""
    if not stream:
        return "whole answer"
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
        return {"verdict": f"{backend} serves it ({verdict.reason})", "status": 200, "backend": backend, "reason": verdict.reason}
    error = api_error(verdict.outcome.error, backend, endpoint)
    return {"verdict": f"the client gets the error {error.status}: {error.message}", "status": error.status, "reason": verdict.reason}


def failure(word: str) -> CallError:
    """An assumed failure by its kind (`connect`, `timeout_total`) or HTTP status (`503`). Raises ValueError for another word."""
    if word.isdigit() and 400 <= int(word) <= 599:
        status = int(word)
        return CallError("status", f"status {status}", status, request_at_fault=status in REQUEST_FAULTS)
    if word in get_args(ErrorKind):
        return CallError(word, word.replace("_", " "))  # type: ignore[arg-type]
    kinds = ", ".join(kind for kind in get_args(ErrorKind) if kind != "status")
    raise ValueError(f"{word!r} is no way to fail: give an HTTP status from 400 to 599, or one of {kinds}")
