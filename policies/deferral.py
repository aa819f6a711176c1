"""Deferral rules: from the scores of what was held to "good enough" or "ask the next stage".

A rule that cannot tell says so (None), and `when_unscored` decides. `any` defers as soon as one says so and `all` only when every
one does, whatever the others cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol, TypeAlias

from policies import calibrated, scores
from policies.calibrated import Calibration
from policies.plan import Assessment, Evidence, TokenKind
from policies.schema import Backend
from policies.schema_rules import DeferWhen, ScoreName
from policies.scores import Scores

ENTROPY_TOP = 5
"""Likeliest tokens that are asked for at each position where an entropy is wanted: what lies outside counts as one more."""
LOGITS_TOP = 20
"""The same where the evidence is logits, which are normalised over them: as many as vLLM gives unless told otherwise."""

SEGMENT, OOD_SCORE, OOD_ENERGY = "segment", "ood_score", "ood_energy"
"""Features of a learned score that do not come from the answer: the request's one segment, and what the guard found."""
FEATURES = (
    "mean_logprob",
    "min_logprob",
    *(f"quantile_logprob_{q:g}" for q in scores.QUANTILES),
    "tokens",
    "margin",
    "first_margin",
    "entropy",
    "energy",
    SEGMENT,
    OOD_SCORE,
    OOD_ENERGY,
)
"""All that a learned score can be computed from here."""

Direction: TypeAlias = Literal["below", "above"]
_TOPS = {"margin": 2, "first_margin": 2, "entropy": ENTROPY_TOP}


class Seen(NamedTuple):
    """What a rule may go by."""

    scores: Scores
    segment: str | None = None
    assessment: Assessment | None = None
    tightened: int = 0


class Finding(NamedTuple):
    """What a rule says, and which score made it say so."""

    deferred: bool | None
    """None: it cannot tell."""
    by: str
    value: float | None = None
    bound: float | None = None


class Condition(Protocol):
    """A deferral rule, or part of one."""

    def judge(self, seen: Seen) -> Finding: ...

    def always(self) -> bool:
        """It defers whatever comes."""
        ...

    def features(self) -> frozenset[str]:
        """The names of `FEATURES`, and of scores, that it reads."""
        ...


def natural_direction(score: ScoreName) -> Direction:
    """On which side of a threshold an answer is unsure."""
    return "above" if score in ("perplexity", "entropy", "energy") else "below"


class OneScore:
    """One score against one threshold."""

    __slots__ = ("_above", "_bound", "_by", "_name", "_q")

    def __init__(self, name: ScoreName, bound: float, q: float | None = None) -> None:
        self._name = name
        self._bound = bound
        self._q = q
        self._above = natural_direction(name) == "above"
        self._by = name if q is None else f"{name}({q:g})"

    def judge(self, seen: Seen) -> Finding:
        found = seen.scores
        value = None
        # Of a prefix that was cut short nothing is known that was not measured at that length.
        if found.status not in ("unavailable", "truncated"):
            value = found.quantile_logprob(self._q) if self._q is not None else getattr(found, self._name)
        if value is None or value != value:
            return Finding(None, self._by, None, self._bound)
        return Finding(value > self._bound if self._above else value < self._bound, self._by, value, self._bound)

    def always(self) -> bool:
        return False

    def features(self) -> frozenset[str]:
        return frozenset({self._name})


class Learned:
    """A learned score against the threshold that was certified for it."""

    __slots__ = ("_calibration", "_thresholds")

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration
        self._thresholds = tightening(calibration)

    def judge(self, seen: Seen) -> Finding:
        if self.always():
            return Finding(True, "calibration_disabled")
        found, made = seen.scores, self._calibration
        value = None
        if found.status != "truncated" or made.binding.prefix_tokens == found.tokens:
            known: dict[str, float | str] = {**scores.features(found)}
            if seen.segment is not None:
                known[SEGMENT] = seen.segment
            if seen.assessment is not None and seen.assessment.score is not None:
                known[OOD_SCORE] = seen.assessment.score
                known[OOD_ENERGY] = seen.assessment.energy if seen.assessment.energy is not None else float("nan")
            value = made.score(known) if known else None
        bound = self._thresholds[min(seen.tightened, len(self._thresholds) - 1)]
        return Finding(None if value is None else value < bound, "calibrated", value, bound)

    def always(self) -> bool:
        return not self._calibration.enabled or self._calibration.threshold is None

    def features(self) -> frozenset[str]:
        return frozenset(self._calibration.model.features)


class Any:
    """Defers where one of several says so."""

    __slots__ = ("_conditions",)
    decisive = True

    def __init__(self, conditions: tuple[Condition, ...]) -> None:
        self._conditions = conditions

    def judge(self, seen: Seen) -> Finding:
        return _first(self._conditions, seen, self.decisive)

    def always(self) -> bool:
        return any(condition.always() for condition in self._conditions)

    def features(self) -> frozenset[str]:
        return frozenset().union(*(condition.features() for condition in self._conditions))


class All(Any):
    """Defers where all of several say so."""

    __slots__ = ()
    decisive = False

    def always(self) -> bool:
        return all(condition.always() for condition in self._conditions)


def _first(conditions: tuple[Condition, ...], seen: Seen, decisive: bool) -> Finding:
    """The first finding that decides alone; else the first that cannot tell; else the first."""
    unsure = agreed = None
    for condition in conditions:
        found = condition.judge(seen)
        if found.deferred is decisive:
            return found
        if found.deferred is None:
            unsure = unsure or found
        else:
            agreed = agreed or found
    found_any = unsure or agreed
    assert found_any is not None
    return found_any


def tightening(calibration: Calibration) -> tuple[float, ...]:
    """The threshold as certified, then at each step the first of the curve that accepts half of what the step before does; the last
    one accepts nothing."""
    threshold = calibration.threshold if calibration.threshold is not None else float("inf")
    found, accepted = [threshold], 1 - calibration.deferred.estimate
    for point in sorted(calibration.curve, key=lambda point: point.threshold):
        if point.threshold > threshold and 0 < 1 - point.deferred <= accepted / 2:
            found.append(point.threshold)
            accepted = 1 - point.deferred
    return (*found, float("inf"))


def compile_condition(when: DeferWhen, files: Mapping[str, bytes]) -> Condition:
    """Raises ValueError or `CalibrationError` for one that the checks would not have let pass, KeyError for a file that is not there."""
    if when.calibration is not None:
        return Learned(calibrated.read(files[when.calibration], when.calibration))
    if when.any or when.all:
        parts = tuple(compile_condition(each, files) for each in when.any or when.all)
        return Any(parts) if when.any else All(parts)
    bound = when.below if when.below is not None else when.above
    if when.score is None or bound is None:
        raise ValueError("a deferral rule needs a score and what it is held against")
    return OneScore(when.score, bound, when.q)


def evidence_for(condition: Condition, backend: Backend, tokens: TokenKind) -> Evidence:
    """What has to be asked of a backend so that the rule can judge."""
    logits = backend.evidence == "logits"
    top = max((_TOPS.get(name, 0) for name in condition.features()), default=0)
    return Evidence(tokens, LOGITS_TOP if logits else top, logits)
