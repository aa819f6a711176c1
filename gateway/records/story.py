"""The story of one exchange, for people: what was asked, each call with its times and what came of it, what was served and why.

Pure: a record in, lines out. What a client or a backend wrote is shown without its control characters.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from gateway.link.messages import AuditRecord, CallRecord, Content, ExchangeRecord, JudgementRecord, ScoresRecord
from policies.plan import Judgement

TEXT_CHARS_MAX = 2_000
"""Of the request and of the response that are shown."""
FIELD_CHARS_MAX = 300
"""Of anything else that a client or a backend wrote."""
BAR = 40
"""Columns of the timeline's bars."""

_REASONS = {
    "primary": "it is the route's first choice",
    "failover": "the backends before it failed",
    "ood": "the request is out of distribution",
    "low_confidence": "the answers before it were not sure enough",
    "hedge": "it was quicker than the first",
    "manual": "it was asked for",
}
_UNTOLD = {
    "busy": "too many audits were under way",
    "timeout": "it took too long",
    "too_long": "one of them is longer than is compared",
    "error": "its call failed",
    "not_comparable": "there is nothing in them to compare",
    "stopped": "the gateway was stopping",
}


def to_json(record: ExchangeRecord) -> dict[str, Any]:
    """The record by names (on the wire and in the store it is an array); content as text."""
    plain = msgspec.structs.asdict(record)
    plain["segments"] = dict(record.segments)
    plain["calls"] = [_call_json(call) for call in record.calls]
    plain["audits"] = [
        {
            **msgspec.structs.asdict(audit),
            "call": None if audit.call is None else _call_json(audit.call),
            "before": [_call_json(call) for call in audit.before],
        }
        for audit in record.audits
    ]
    if (found := record.findings) is not None:
        plain["findings"] = {
            **msgspec.structs.asdict(found),
            "judgements": [msgspec.structs.asdict(judgement) for judgement in found.judgements],
            "assessment": None if found.assessment is None else msgspec.structs.asdict(found.assessment),
        }
    if record.content is not None:
        content = msgspec.structs.asdict(record.content)
        plain["content"] = {
            name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value for name, value in content.items()
        }
    return plain


def _call_json(call: CallRecord) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(call),
        "attempts": [msgspec.structs.asdict(attempt) for attempt in call.attempts],
        "scores": None if call.scores is None else msgspec.structs.asdict(call.scores),
    }


def story(record: ExchangeRecord) -> list[str]:
    """The lines to print."""
    lines = [f"exchange {_shown(record.exchange_id)}  {_when(record.started_at)}  {_verdict(record)}", ""]
    lines += _aligned(list(_asked(record)))
    lines += ["", *_timeline(record)]
    lines += ["", *_aligned(list(_served(record)))]
    if record.audits:
        lines += ["", *(line for audit in record.audits for line in _audited(audit))]
    if record.content is not None:
        lines += ["", *_content(record.content)]
    return lines


def _verdict(record: ExchangeRecord) -> str:
    if record.code == 499:
        return f"499: the client left after {_seconds(record.duration)}"
    return f"{record.code} in {_seconds(record.duration)}"


def _asked(record: ExchangeRecord) -> Iterator[tuple[str, str]]:
    what = f"for {_shown(record.model)}, {'streamed' if record.stream else 'whole'}" if record.model else "with a body that names no model"
    yield "asked", f"{record.endpoint} {what}, {_bytes(record.bytes_in)}"
    yield "request id", _shown(record.request_id)
    yield "key", _shown(record.key) or "none (anonymous)"
    if record.unit:
        yield "unit", _shown(record.unit)
    yield "route", f"{_shown(record.route) or 'none matched'}, by policy {record.policy_version}"
    if record.segments:
        yield "segments", ", ".join(f"{name}={_shown(value)}" for name, value in record.segments)
    if record.findings is not None and record.findings.ood:
        found = record.findings.assessment
        score = f" (score {found.score:.4g})" if found is not None and found.score is not None else ""
        words = {"true": "out of distribution", "false": "in distribution"}
        yield "guard", words.get(record.findings.ood, "unscored: no text to score") + score
    yield "trace", f"{record.trace_id} ({'sampled' if record.trace_sampled else 'not sampled'})"


def _timeline(record: ExchangeRecord) -> list[str]:
    """A row for each call, with its bar: `.` waiting, `-` from the head to the first content, `=` content, `|` the commit."""
    if not record.calls:
        return ["no backend was called"]
    scale = max([record.duration, *(call.ended for call in record.calls)]) or 1.0
    judgements = record.findings.judgements if record.findings is not None else ()
    name_width = max(len(call.backend) for call in record.calls)
    lines = [f"calls, of {_seconds(scale)}   . waiting   - answering   = content   | commit"]
    for number, call in enumerate(record.calls, 1):
        bar = _bar(call, scale, record.committed if call.backend == record.backend else None)
        lines.append(
            f"{number:>3} {call.backend:<{name_width}} [{bar}] {_seconds(call.started):>8} to {_seconds(call.ended):<8} {_result(call)}"
        )
        indent = " " * (name_width + 5)
        lines += [f"{indent}{detail}" for detail in _details(call)]
        lines += [f"{indent}{worded_judgement(judgement)}" for judgement in judgements if judgement.call == number - 1]
    return lines + [f"  - {each.backend}: {worded_judgement(each)}" for each in judgements if each.call is None]


def _bar(call: CallRecord, scale: float, committed: float | None) -> str:
    def column(at: float) -> int:
        return int(min(BAR - 1, max(0.0, at / scale * BAR)))  # which may be infinite

    bar = [" "] * BAR
    first, last = column(call.started), column(call.ended)
    for mark, since in ((".", call.started), ("-", call.head), ("=", call.first_content)):
        if since is not None:
            bar[column(since) : last + 1] = mark * (last + 1 - column(since))
    if committed is not None and first <= column(committed) <= last:
        bar[column(committed)] = "|"
    return "".join(bar)


def _result(call: CallRecord) -> str:
    status = f" (status {call.status})" if call.status is not None and call.result != "ok" else ""
    message = f": {_shown(call.message)}" if call.message else ""
    return f"{call.result}{status}{message}"


def _details(call: CallRecord) -> Iterator[str]:
    # A single try that ended as the call did says nothing new but where it went.
    if len(call.attempts) == 1:
        yield f"at {_shown(call.attempts[0].replica)}"
    for number, attempt in enumerate(call.attempts if len(call.attempts) > 1 else (), 1):
        yield f"try {number} at {_shown(attempt.replica)}: {_seconds(attempt.started)} to {_seconds(attempt.ended)}, {attempt.result}"
    times = [
        f"{name} {_seconds(at)}"
        for name, at in (("head", call.head), ("first content", call.first_content), ("hold over", call.held))
        if at is not None
    ]
    if times:
        yield ", ".join(times)
    if call.scores is not None:
        yield _scored(call.scores)
    facts = []
    if call.input_tokens is not None or call.output_tokens is not None:
        facts.append(f"{_count(call.input_tokens)} tokens in, {_count(call.output_tokens)} out")
    if call.cost is not None:
        facts.append(f"{_cost(call.cost)} {call.currency or ''}".rstrip())
    if call.finish_reasons:
        facts.append(f"finished: {', '.join(map(_shown, call.finish_reasons))}")
    if call.response_model:
        facts.append(f"model {_shown(call.response_model)}")
    if facts:
        yield ", ".join(facts)


def _scored(scores: ScoresRecord) -> str:
    """What its reply was judged by."""
    found = [
        f"{name} {value:.4g}"
        for name, value in (
            ("mean_logprob", scores.mean_logprob),
            ("min_logprob", scores.min_logprob),
            ("margin", scores.margin),
            ("entropy", scores.entropy),
            ("energy", scores.energy),
        )
        if value is not None
    ]
    return f"scores of {scores.tokens} tokens ({scores.status}){': ' if found else ''}{', '.join(found)}"


def worded_judgement(found: Judgement | JudgementRecord) -> str:
    """Why a stage was accepted or deferred."""
    verdict = "deferred" if found.deferred else "accepted"
    if found.by == "error":
        return "its failure goes to the next stage"
    if found.by == "no_rule":
        return "accepted: the stage has no defer_when"
    if found.by in ("calibration_disabled", "audit"):
        return f"passed over: {'its calibration is disabled' if found.by != 'audit' else 'an audit has disabled the cascade'}"
    if found.by == "when_unscored":
        return f"{verdict}: no score (evidence {found.status}), so when_unscored decides"
    bound = "" if found.value is None or found.bound is None else f"{found.value:.4g} against {found.bound:.4g}"
    if found.by == "defer_limit":
        return f"not deferred although {bound or 'unscored'}: defer_limit is exceeded"
    return f"{verdict}: {found.by} is {bound}"


def _served(record: ExchangeRecord) -> Iterator[tuple[str, str]]:
    if record.backend:
        why = _REASONS.get(record.reason, record.reason)
        yield "served", f"by {record.backend} ({record.reason}: {why})" if record.reason else f"by {record.backend}"
    else:
        yield "served", "by nobody"
    if record.findings is not None and record.findings.low_confidence:
        yield "confidence", "low: it was judged not good enough, and nothing better was to be had"
    if record.error:
        yield "error", _shown(record.error)
    if record.truncated_by_client:
        yield "client", "left before the answer was whole"
    if record.committed is not None:
        yield "first byte" if not record.stream else "first token", f"after {_seconds(record.committed)}"
    yield "overhead", f"{_seconds(record.overhead)} of {_seconds(record.duration)} was no backend's"
    yield "sent", _bytes(record.bytes_out)
    inputs, outputs = (sum(getattr(call, name) or 0 for call in record.calls) for name in ("input_tokens", "output_tokens"))
    if inputs or outputs:
        yield "tokens", f"{inputs} in, {outputs} out"
    costs: dict[str, float] = {}
    for call in record.calls:
        if call.cost is not None:
            costs[call.currency or ""] = costs.get(call.currency or "", 0.0) + call.cost
    if costs:
        yield "cost", ", ".join(f"{_cost(cost)} {currency}".rstrip() for currency, cost in costs.items())


def _audited(audit: AuditRecord) -> Iterator[str]:
    """What an audit found, and the calls that were made for it."""
    whose = f"{audit.backend}'s reply to the same" if audit.purpose == "audit_accepted" else f"the deferred reply of {audit.backend}"
    found = f"not compared with the answer: {_UNTOLD.get(audit.why, _shown(audit.why))}"
    if audit.agreed is not None:
        found = f"{'agrees' if audit.agreed else 'does not agree'} with the answer"
    yield f"audit: {whose} {found if audit.agreed is not None else f'was {found}'}"
    for call in audit.calls:
        backend = f"{call.backend} " if audit.before else ""
        yield f"  {backend}{_seconds(call.started)} to {_seconds(call.ended)} {_result(call)}"
        yield from (f"  {detail}" for detail in _details(call))


def _content(content: Content) -> Iterator[str]:
    for name, data in (("request", content.request), ("response", content.response)):
        yield f"{name}{' (kept in part)' if content.truncated else ''}"
        yield f"  {_shown(data.decode('utf-8', 'replace'), TEXT_CHARS_MAX)}"


def _aligned(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def _shown(text: str, most: int = FIELD_CHARS_MAX) -> str:
    """On one line, bounded, and harmless to a terminal."""
    if len(text) > most:
        text = text[:most] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _seconds(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.2f} s"


def _bytes(size: int) -> str:
    if size < 1_000:
        return f"{size} B"
    return f"{size / 1024:.1f} KiB" if size < 1_000_000 else f"{size / 1024**2:.1f} MiB"


def _count(tokens: int | None) -> str:
    return "?" if tokens is None else str(tokens)


def _cost(cost: float) -> str:
    return f"{cost:.10f}".rstrip("0").rstrip(".") or "0"


def _when(started_at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(started_at))
