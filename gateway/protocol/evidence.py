"""Reading the evidence of a reply, the log-probabilities of its tokens, into scores.

Which tokens count is said by the policy: those of the content, those of the tool calls' arguments, or all. In a stream it is the
field that a chunk's delta carries that tells them apart; an entry on a chunk without text (the end of the sequence) belongs to
what came before it, and to what follows if nothing did. A whole reply is aligned (`gateway.protocol.alignment`).
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Final

import msgspec

from gateway.protocol.alignment import arguments, ends_early, scored
from gateway.protocol.chunk_shapes import LOGPROBS, Entry, Logprobs, OddChoice, ScoredChoice, TextChoice
from gateway.protocol.reply_shapes import WHOLE_REPLY, WholeChoice
from gateway.protocol.spans import numbers_only
from gateway.protocol.stripping import UNREADABLE, likeliest, strip
from policies.plan import Endpoint, Evidence
from policies.scores import TOP_SCORES, UNAVAILABLE, Scores, Tally, TopScore, worst

CONTENT: Final = "content"
ARGUMENTS: Final = "tool_arguments"
CALL: Final = "call"
"""The beginning of a tool call: its name."""
REASONING: Final = "reasoning"

FINISH: Final = b'"finish_reason'
"""What bytes that are no log-probabilities must not have within them to be taken for them nevertheless."""

PENDING_MAX: Final = 1_024
"""Chunks of one choice that have evidence before any of its text has shown what it is of; more are taken for content."""


class ChoiceEvidence:
    """What has been read of one choice."""

    __slots__ = ("entries", "finished", "gap", "gaps", "kind", "pending", "tally")

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.kind = ""
        """What its last text was; empty while there was none."""
        self.pending: list[Logprobs] = []
        self.entries = 0
        """Tokens that count, whether their evidence was read or not needed any more."""
        self.gap = False
        """The last text that counts came without evidence."""
        self.gaps = False
        """So did some, and evidence came again."""
        self.finished = False


class EvidenceReader:
    """Reads the evidence of a stream. Of each choice the first `hold_tokens` tokens are scored, or all where it is 0."""

    __slots__ = ("_choices", "_counted", "_hold_tokens", "_last", "_logits", "_top", "_wanted", "after_commit", "keep")

    def __init__(
        self,
        evidence: Evidence,
        *,
        hold_tokens: int = 0,
        keep: int | None = None,
        after_commit: bool = False,
        wanted: Set[TopScore] = TOP_SCORES,
    ) -> None:
        self.keep = keep
        """What of the log-probabilities is for the client, as `Body.keeps_logprobs` says it; None: all that comes."""
        self.after_commit = after_commit
        """Read on when the reply is on its way."""
        self._hold_tokens = hold_tokens
        self._counted = frozenset((CONTENT, ARGUMENTS, CALL, REASONING) if evidence.tokens == "all" else (evidence.tokens,))
        self._top = evidence.top
        self._logits = evidence.logits
        self._wanted = wanted
        self._choices: dict[int, ChoiceEvidence] = {}
        self._last = ChoiceEvidence(Tally())

    def take(self, choice: TextChoice) -> int:
        """One choice of a chunk; returns how many of its tokens count. Where no evidence came, any text that counts is one."""
        index = choice.index or 0
        state = self._choices.get(index)
        if state is None:
            state = self._choices[index] = ChoiceEvidence(Tally(logits=self._logits, wanted=self._wanted))
        self._last = state
        if choice.finish_reason:
            state.finished = True
        kind = kind_of(choice)
        if isinstance(choice, ScoredChoice):
            return self._take(state, kind, choice.logprobs)
        if isinstance(choice, OddChoice) and choice.logprobs is not None:
            state.tally.add(None)
        return self._take(state, kind, None)

    def take_alike(self, kind: str, logprobs: bytes) -> int:
        """The log-probabilities of a chunk that is like the last one but for its text, of which only the kind is needed: empty
        where it has none. -1, and nothing taken, where they may be more than that."""
        state = self._last
        try:
            found = LOGPROBS.decode(logprobs)
        except UNREADABLE:
            return self._take_odd(state, kind, logprobs)
        entries = found.content
        if (
            entries is None
            or len(entries) != 1
            or state.gap
            or not (kind == state.kind or not kind)
            or state.kind not in self._counted
            or found.refusal is not None
            or found.token_logprobs is not None
        ):
            return self._take(state, kind, found)
        state.entries += 1  # one more token of the kind that counts, as nearly always
        if not self._hold_tokens or state.entries <= self._hold_tokens:
            entry = entries[0]
            top = entry.top_logprobs
            if not top or not self._top:
                state.tally.add(entry.logprob)
            else:
                state.tally.add(entry.logprob, [each.logprob for each in (top if len(top) <= self._top else top[: self._top])])
        return 1

    def _take_odd(self, state: ChoiceEvidence, kind: str, logprobs: bytes) -> int:
        """What is no JSON because of a NaN, or of another shape; -1 where it may be more than log-probabilities."""
        if logprobs.find(FINISH) >= 0:
            return -1
        try:
            return self._take(state, kind, LOGPROBS.decode(numbers_only(logprobs)))
        except UNREADABLE:
            state.tally.add(None)
            return self._take(state, kind, None)

    def scores(self) -> Scores:
        """Of what has come. `truncated`: fewer tokens than are held have evidence, though the choice has not ended, or its evidence
        ended before it. Of several choices the worst in every respect."""
        return worst([self._scores(state) for state in self._choices.values()])

    def _scores(self, state: ChoiceEvidence) -> Scores:
        if state.finished and not state.kind:
            self._settle(state, CONTENT)
        short = not self._hold_tokens or state.entries < self._hold_tokens
        found = state.tally.scores(truncated=short and (state.gap or not state.finished))
        return msgspec.structs.replace(found, status="partial") if state.gaps and found.status == "ok" else found

    def _take(self, state: ChoiceEvidence, kind: str, found: Logprobs | None) -> int:
        number = 0 if found is None else len(found.content or ()) + len(found.refusal or ()) + len(found.token_logprobs or ())
        tokens = self._settle(state, kind) if kind != state.kind and kind else 0
        if found is None or not number:
            if not kind or kind not in self._counted:
                return tokens
            if not self._hold_tokens or state.entries < self._hold_tokens:
                state.gap = True
            return tokens + 1
        if not state.kind:
            state.pending.append(found)
            return self._settle(state, CONTENT) if len(state.pending) > PENDING_MAX else 0
        return tokens + self._add(state, found, number) if state.kind in self._counted else tokens

    def _settle(self, state: ChoiceEvidence, kind: str) -> int:
        """The choice now says something of that kind: what was pending was of it."""
        state.kind = kind
        pending, state.pending = state.pending, []
        if not pending or kind not in self._counted:
            return 0
        return sum(
            [self._add(state, each, len(each.content or ()) + len(each.refusal or ()) + len(each.token_logprobs or ())) for each in pending]
        )

    def _add(self, state: ChoiceEvidence, found: Logprobs, number: int) -> int:
        if state.gap:
            state.gap, state.gaps = False, True
        room = self._hold_tokens - state.entries if self._hold_tokens else number
        state.entries += number
        if room > 0:
            for entries in (found.content, found.refusal):
                if entries:
                    add_entries(state.tally, entries[:room], self._top)
                    room -= len(entries)
            if found.token_logprobs and room > 0:
                add_columns(state.tally, found.token_logprobs[:room], found.top_logprobs, self._top)
        return number


def add_entries(tally: Tally, entries: Sequence[Entry], top: int) -> None:
    """Tokens in the shape of chat; of the likeliest as many as would have come had only `top` been asked for."""
    for entry in entries:
        found = entry.top_logprobs
        if found and top:
            tally.add(entry.logprob, [each.logprob for each in (found if len(found) <= top else found[:top])])
        else:
            tally.add(entry.logprob)


def add_columns(tally: Tally, logprobs: Sequence[object], tops: Sequence[dict[str, object] | None] | None, top: int) -> None:
    """Tokens in the shape of completions."""
    for position, logprob in enumerate(logprobs):
        found = tops[position] if top and tops is not None and position < len(tops) else None
        tally.add(logprob, likeliest(list(found.values()), top) if found else None)


def kind_of(choice: TextChoice) -> str:
    """What the text of a chunk is; empty where there is none."""
    delta = choice.delta
    if delta is None:
        return CONTENT if choice.text else ""
    if delta.get("content") or delta.get("refusal"):
        return CONTENT
    if delta.get("tool_calls") or delta.get("function_call"):
        return ARGUMENTS if arguments(delta) else CALL
    return REASONING if delta.get("reasoning") or delta.get("reasoning_content") else ""


def read_evidence(
    endpoint: Endpoint,
    body: bytes,
    evidence: Evidence,
    *,
    hold_tokens: int = 0,
    keep: int | None = None,
    wanted: Set[TopScore] = TOP_SCORES,
) -> tuple[Scores, bytes]:
    """The scores of a whole reply, of the same first tokens that a stream would have been judged by, and the reply as the client
    may be given it."""
    if endpoint != "chat" and endpoint != "completions":
        return UNAVAILABLE, body
    readable = numbers_only(body)
    stripped = body
    try:
        if keep is not None:
            stripped = strip(body, keep)
        choices = WHOLE_REPLY.decode(readable).choices
    except UNREADABLE:
        return UNAVAILABLE, stripped
    return worst([_whole_scores(choice, evidence, hold_tokens, wanted) for choice in choices or ()]), stripped


def _whole_scores(choice: WholeChoice, evidence: Evidence, hold_tokens: int, wanted: Set[TopScore]) -> Scores:
    tally = Tally(logits=evidence.logits, wanted=wanted)
    found = choice.logprobs
    if found is None:
        return UNAVAILABLE
    entries = scored(choice, [*(found.content or ()), *(found.refusal or ())], evidence.tokens)
    if entries is None:
        return UNAVAILABLE
    add_entries(tally, entries[:hold_tokens] if hold_tokens else entries, evidence.top)
    if found.token_logprobs and evidence.tokens != ARGUMENTS:
        logprobs = found.token_logprobs[:hold_tokens] if hold_tokens else found.token_logprobs
        add_columns(tally, logprobs, found.top_logprobs, evidence.top)
    short = len(tally) < hold_tokens if hold_tokens else True
    return tally.scores(truncated=short and ends_early(choice))
