"""What `headgate explain` assumes of a world that it does not ask: which calls fail, what the replies' scores are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import get_args

import msgspec

from gateway.exchange.leg import REQUEST_FAULTS
from policies.plan import Call, CallError, ErrorKind, Ood, Outcome, Race, ScoreStatus
from policies.scores import TOKENS_MAX, UNAVAILABLE, Scores

SCORES = ("mean_logprob", "min_logprob", "quantile_logprob", "perplexity", "margin", "first_margin", "entropy", "energy", "tokens")
_STATUSES: tuple[ScoreStatus, ...] = get_args(ScoreStatus)


class Assumed(msgspec.Struct, frozen=True):
    """By backend; one that is in none of them answers, and its reply has no scores."""

    failures: Mapping[str, CallError] = {}
    scores: Mapping[str, Scores] = {}
    ood: Ood | None = None
    """What the guard finds; None: it is asked."""
    defer_limited: bool = False

    def outcome(self, verb: Call | Race, number: int) -> Outcome:
        """What comes of a call. The first call of a race is never slow enough for the second to be sent."""
        call = verb.calls[0] if isinstance(verb, Race) else verb
        error = self.failures.get(call.backend)
        scores = self.scores.get(call.backend, UNAVAILABLE) if call.evidence is not None and error is None else None
        return Outcome(number, call.backend, error, complete=error is None and call.hold.all, scores=scores)


def failure(word: str) -> CallError:
    """An assumed failure by its kind (`connect`, `timeout_total`) or HTTP status (`503`). Raises ValueError for another word."""
    if word.isdigit() and 400 <= int(word) <= 599:
        status = int(word)
        return CallError("status", f"status {status}", status, request_at_fault=status in REQUEST_FAULTS)
    if word in get_args(ErrorKind):
        return CallError(word, word.replace("_", " "))  # type: ignore[arg-type]
    kinds = ", ".join(kind for kind in get_args(ErrorKind) if kind != "status")
    raise ValueError(f"{word!r} is no way to fail: give an HTTP status from 400 to 599, or one of {kinds}")


def assumed_scores(words: str) -> Scores:
    """`mean_logprob:-0.6,tokens:24`, or a status alone (`unavailable`, `truncated`). Raises ValueError for what is neither."""
    status: ScoreStatus = "ok"
    values: dict[str, float] = {}
    for word in words.split(","):
        name, colon, number = word.strip().partition(":")
        if not colon and name in _STATUSES:
            status = name
            continue
        if name not in SCORES:
            raise ValueError(f"{word!r} is no score: write {SCORES[0]}:-0.6, or a status; there are {', '.join((*SCORES, *_STATUSES))}")
        try:
            values[name] = float(number)
        except ValueError:
            raise ValueError(f"{name} needs a number, not {number!r}") from None
    tokens = int(min(TOKENS_MAX, max(1, values.pop("tokens", 1))))
    quantile = values.pop("quantile_logprob", None)
    if "mean_logprob" in values:
        mean = values["mean_logprob"]
        values.setdefault("perplexity", math.exp(-mean) if mean > -700 else math.inf)
    return Scores(status, tokens, **values, sorted_logprobs=() if quantile is None else (quantile,) * tokens)
