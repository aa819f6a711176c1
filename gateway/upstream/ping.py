"""What a probe asks and how it reads the answer: is it an answer at all, and does it carry the evidence that the policy declares?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, Literal, TypeAlias

import msgspec

from policies.plan import Endpoint

Declared: TypeAlias = Literal["none", "logprobs", "logits"]

PATHS: Final[dict[Endpoint, str]] = {"chat": "/v1/chat/completions", "completions": "/v1/completions", "embeddings": "/v1/embeddings"}
"""Where a prompt can be sent, in the order of trying: base models have no chat, embedding servers only the last."""

NOT_HERE: Final = frozenset({400, 404, 405, 422, 501})
"""Statuses after which the next endpoint is tried: engines word "not on this server" in all these ways."""

TOP_LOGPROBS: Final = 5
ROUNDING: Final = 1e-3


class _Top(msgspec.Struct):
    logprob: float | None = None


class _Entry(msgspec.Struct):
    logprob: float | None = None
    top_logprobs: list[_Top] | None = None


class _Logprobs(msgspec.Struct):
    """Chat's shape (`content`), and that of completions."""

    content: list[_Entry] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None


class _EvidenceChoice(msgspec.Struct):
    logprobs: _Logprobs | None = None


class _EvidenceAnswer(msgspec.Struct):
    choices: list[_EvidenceChoice] = []


class _Answer(msgspec.Struct):
    choices: list[msgspec.Raw] = []
    data: list[msgspec.Raw] = []


_ANSWER: Final = msgspec.json.Decoder(_Answer)
_EVIDENCE: Final = msgspec.json.Decoder(_EvidenceAnswer)


def request_body(endpoint: Endpoint, model: str, prompt: str, max_tokens: int, *, evidence: bool) -> bytes:
    """The JSON of a prompt for this endpoint; with `evidence` it asks for token log-probabilities."""
    body: dict[str, object] = {"model": model}
    match endpoint:
        case "chat":
            body |= {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens, "temperature": 0}
            if evidence:
                body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        case "completions":
            body |= {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
            if evidence:
                body["logprobs"] = TOP_LOGPROBS
        case _:
            body["input"] = prompt
    return msgspec.json.encode(body)


def is_answer(endpoint: Endpoint, answer: bytes) -> bool:
    """Does the body of a 200 hold a choice (or an embedding)?"""
    try:
        decoded = _ANSWER.decode(answer)
    except msgspec.DecodeError:
        return False
    return bool(decoded.data if endpoint == "embeddings" else decoded.choices)


def evidence_problem(declared: Declared, answer: bytes) -> str | None:
    """What is wrong with the evidence in an answer, or None.

    An engine that returns logits in the place of log-probabilities does not say so: a value above 0, or a sum of probabilities
    above 1, gives it away.
    """
    if declared == "none":
        return None
    try:
        entries = [entry for entry in _entries(_EVIDENCE.decode(answer)) if entry]
    except msgspec.DecodeError:
        entries = []
    if not entries:
        return f"the policy declares evidence: {declared}, but the answer has no logprobs"
    logits = any(max(entry) > ROUNDING or math.fsum(math.exp(value) for value in entry) > 1 + ROUNDING for entry in entries)
    if logits and declared == "logprobs":
        return "the policy declares evidence: logprobs, but these are logits"
    if not logits and declared == "logits":
        return "the policy declares evidence: logits, but these are log-probabilities"
    return None


def _entries(answer: _EvidenceAnswer) -> Iterator[list[float]]:
    """For each token the values of its alternatives, or its own where there are none. (Its own is among the alternatives, or is
    less likely than they are: adding it could count it twice.)"""
    for choice in answer.choices:
        found = choice.logprobs
        if found is None:
            continue
        for entry in found.content or ():
            yield _numbers([top.logprob for top in entry.top_logprobs] if entry.top_logprobs else [entry.logprob])
        alternatives = found.top_logprobs or ()
        for index, own in enumerate(found.token_logprobs or ()):
            tops = alternatives[index] if index < len(alternatives) else None
            yield _numbers(list(tops.values()) if tops else [own])


def _numbers(values: list[float | None]) -> list[float]:
    # A logit may be large; exp of anything above 700 overflows, and 1 is proof enough.
    return [min(value, 700.0) for value in values if value is not None]
