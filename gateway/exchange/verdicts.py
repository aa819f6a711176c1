"""What a guard and a cascade found: asked of the detector, told to the client, counted and recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from gateway.link.messages import AssessmentRecord, CallRecord, ExchangeRecord, Findings, JudgementRecord, ScoresRecord
from gateway.protocol.turns import SAID, said_turns
from policies.detector import CompiledDetector
from policies.ood.text import guard_text
from policies.plan import Answer, Assess, Judgement, Refuse
from policies.scores import QUANTILES, Scores

if TYPE_CHECKING:
    from gateway.exchange.executor import Exchange
    from gateway.exchange.order import Order


def guarded(order: Order, verb: Assess) -> tuple[CompiledDetector, str | None]:
    """The detector that is to be asked, and the text to ask it about: the same text, by the same function, as offline."""
    memory = order.measures.memory
    if memory is None:
        raise RuntimeError("a guard on a route that has no detector")
    detector = memory.detectors[verb.detector]
    body = order.body
    return detector, guard_text(said_turns({name: body.value(name) for name in SAID if name in body.names}), detector.text)


def headers(verdict: Answer | Refuse, debug: bool) -> bytes:
    """The header lines that a guard and a cascade add. Scores only with `debug`: they help an evader."""
    lines = f"x-headgate-ood: {verdict.ood}\r\n" if verdict.ood is not None else ""
    if isinstance(verdict, Answer) and verdict.low_confidence:
        lines += "x-headgate-low-confidence: true\r\n"
    if debug:
        judged = last_judged(verdict.judgements)
        if judged is not None:
            if judged.value is not None:
                lines += f"x-headgate-confidence: {judged.value:.6g}\r\n"
            lines += f"x-headgate-score-status: {judged.status}\r\n"
        if verdict.assessment is not None and verdict.assessment.energy is not None:
            lines += f"x-headgate-energy: {verdict.assessment.energy:.6g}\r\n"
    return lines.encode()


def last_judged(judgements: tuple[Judgement, ...]) -> Judgement | None:
    """The last one of a reply."""
    for judgement in reversed(judgements):
        if judgement.call is not None and judgement.by != "error":
            return judgement
    return None


def count_verdict(exchange: Exchange, verdict: Answer | Refuse, now: float) -> None:
    """Of a guard or a cascade: what was found, and what was made of it."""
    measures = exchange.order.measures
    if verdict.ood is not None:
        measures.ood(verdict.ood)
    for judgement in verdict.judgements:
        measures.judged(judgement)
    if measures.memory is not None:
        measures.memory.judged(verdict.judgements, now)


def with_findings(record: ExchangeRecord, verdict: Answer | Refuse) -> ExchangeRecord:
    """The record, with what a guard and a cascade found."""
    if verdict.ood is None and not verdict.judgements:
        return record
    found = verdict.assessment
    judgements = [
        JudgementRecord(each.backend, each.deferred, each.by, each.call, each.value, each.bound, each.status) for each in verdict.judgements
    ]
    return replace(
        record,
        findings=Findings(
            tuple(judgements),
            isinstance(verdict, Answer) and verdict.low_confidence,
            verdict.ood or "",
            None if found is None else AssessmentRecord(found.status, found.score, found.energy),
        ),
    )


def with_scores(record: CallRecord, scores: Scores) -> CallRecord:
    """The record of a call, with what its reply was judged by."""
    return replace(
        record,
        scores=ScoresRecord(
            scores.status,
            scores.tokens,
            scores.mean_logprob,
            scores.min_logprob,
            tuple([scores.quantile_logprob(q) for q in QUANTILES]),
            scores.margin,
            scores.first_margin,
            scores.entropy,
            scores.energy,
        ),
    )
