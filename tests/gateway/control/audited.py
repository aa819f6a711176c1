"""Records of an audited cascade, as workers would send them, and a policy that has one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from gateway.link.messages import AuditRecord, CallRecord, ExchangeRecord, Findings, JudgementRecord, ScoresRecord
from policies.hashing import sample
from policies.load import Loaded
from tests.gateway.records.examples import CALL, record
from tests.policies.building import backend, loaded, policy

THRESHOLD = 0.6
"""Of `calibrations/support.json`."""


def cascade(calibration: str | None = "calibrations/support.json", **audit: Any) -> dict[str, Any]:
    rule = {"score": "mean_logprob", "below": -0.5} if calibration is None else {"calibration": calibration}
    found: dict[str, Any] = {"stages": [{"backend": "small", "hold": {"tokens": 24}, "defer_when": rule}], "last": "big"}
    return found | ({"audit": {"accepted_percent": 2, "deferred_percent": 2} | audit} if audit else {})


def audited_policy(calibration: str | None = "calibrations/support.json", *, model: str = "tiny", **audit: Any) -> Loaded:
    price = {"input": 1, "output": 1, "currency": "USD", "per_tokens": 1000}
    backends = [backend("small", model=model, evidence="logprobs", price=price), backend("big", price=price), backend("huge")]
    routes = [{"name": "chat", "matches": [{"models": ["chat"]}], "cascade": cascade(calibration, **(audit or {"agree": "exact"}))}]
    return loaded(policy(backends=backends, routes=routes))


def call(name: str, cost: float | None, **more: Any) -> CallRecord:
    return replace(CALL, backend=name, cost=cost, **more)


def accepted(number: int, version: str, agreed: bool | None = True, why: str = "", *, audited: bool = True, **more: Any) -> ExchangeRecord:
    """The stage's reply was served; `audited`: the last stage was asked too, for a cost of 10 against 1."""
    audit = AuditRecord("audit_accepted", "big", agreed, why, None if why else call("big", 10.0))
    judgement = JudgementRecord("small", False, "calibrated", 0, 0.9, more.pop("bound", THRESHOLD), "ok")
    small = call("small", 1.0, scores=more.pop("scores", ScoresRecord("ok", 24, -0.2, -1.0, (-0.9, -0.3, -0.1))))
    made = {"route": "chat", "policy_version": version, "calls": (small,), "backend": "small", "findings": Findings((judgement,))}
    return record(number, **{**made, "audits": (audit,) if audited else (), **more})


def deferred(number: int, version: str, agreed: bool | None = None, **more: Any) -> ExchangeRecord:
    """The last stage answered; `agreed`: the deferred reply was let finish, and compared."""
    audits = () if agreed is None else (AuditRecord("audit_deferred", "small", agreed),)
    judgement = JudgementRecord("small", True, "calibrated", 0, 0.3, more.pop("bound", THRESHOLD), "ok")
    small = call("small", None, result="cancelled", scores=more.pop("scores", ScoresRecord("ok", 24, -0.8, -3.5, (-2.0, -1.0, -0.5))))
    made = {"route": "chat", "policy_version": version, "calls": (small, call("big", 10.0)), "backend": "big"}
    return record(number, **{**made, "findings": Findings((judgement,)), "audits": audits, **more})


def traffic(
    version: str, count: int, seed: int, *, percents: tuple[float, float] = (100, 100), worse: float = 1.0, start: int = 0
) -> Iterator[ExchangeRecord]:
    """Requests whose small answers agree with the big model's the more often the surer they are, audited as a worker samples them.
    `worse` multiplies how often they do not."""
    chance = random.Random(seed)
    for number in range(start, start + count):
        logprob = -2 * chance.random() ** 3
        agreed = chance.random() >= min(1.0, worse * (0.001 + 0.4 * (-logprob / 2) ** 2))
        # The features of calibrations/support.json are made up: the threshold that is used here is this one.
        scores = ScoresRecord("ok", 24, logprob, 3 * logprob, (2 * logprob, 1.5 * logprob, logprob))
        name = f"ex-{number}"
        if logprob >= -0.5:
            yield accepted(number, version, agreed, audited=sample(name, "chat.audit.accepted", percents[0]), scores=scores)
        else:
            yield deferred(number, version, agreed if sample(name, "chat.audit.deferred", percents[1]) else None, scores=scores)
