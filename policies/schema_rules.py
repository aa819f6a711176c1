"""The part of the policy file that decides by what a request or a reply is like: detectors, guards, cascades and hedges."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from policies.ood.text import TextKind
from policies.plan import CALLS_MAX, Agreement, Percentile, TokenKind
from policies.scalars import Duration, File, Name, Percent, Share

ScoreName: TypeAlias = Literal["mean_logprob", "min_logprob", "quantile_logprob", "perplexity", "margin", "entropy", "energy"]
"""The scores that a threshold may be set on by hand; `calibrated` comes from a file."""
CONDITIONS_MAX = 8
"""Entries of one `any` or `all`."""
STAGES_MAX = CALLS_MAX - 1
"""Stages of a cascade, beside its last."""
TO_REPLICA = "replica"
"""The `to` of a hedge that stays with the backend."""


class Threshold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The score above which a request is out of distribution. One of the two; left out, `keep_percent` is 95."""

    keep_percent: (
        Annotated[
            Share,
            Meta(
                description="So many percent of the requests that are like the training data count as in distribution: the threshold is "
                "read off the detector's held-out texts.",
                examples=[95],
            ),
        ]
        | None
    ) = None
    score: Annotated[float, Meta(description="The threshold itself, as `headgate score ood` prints scores.", examples=[3.1])] | None = None


class Detector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An OOD detector: tells whether a request is like those that the fine-tuned model was trained for."""

    name: Annotated[Name, Meta(description="What guards call it.", examples=["support-domain"])]
    artifact: Annotated[
        File,
        Meta(
            description="The file that `headgate fit ood` made, relative to the policy file.",
            examples=["detectors/support-domain.npz"],
        ),
    ]
    text: (
        Annotated[
            TextKind,
            Meta(
                description="What of a request is scored. Left out: what the artifact was fitted on; another one is an error.",
                examples=["last_user"],
            ),
        ]
        | None
    ) = None
    threshold: Annotated[
        Threshold,
        Meta(description="The score above which a request is out of distribution.", examples=[{"keep_percent": 95}]),
    ] = Threshold()


class Guard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Looks at a request before anybody is called."""

    detector: Annotated[Name, Meta(description="The detector that is asked.", examples=["support-domain"])]
    when_ood: Annotated[
        Literal["to_last", "flag", "refuse"],
        Meta(
            description="What becomes of a request that is out of distribution: straight to the cascade's last stage, served as ever but "
            "with `x-headgate-ood: true`, or a 422 whose code is `out_of_distribution`.",
            examples=["to_last"],
        ),
    ]
    when_unscored: Annotated[
        Literal["serve", "to_last", "refuse"],
        Meta(description="The same for a request without a text that could be scored.", examples=["serve"]),
    ] = "serve"


class HoldFor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keep a reply back until so much of it has come; then it is judged."""

    tokens: Annotated[
        int,
        Meta(
            ge=1,
            le=4096,
            description="Tokens that are judged, counted by their evidence; a finished shorter reply is whole.",
            examples=[24],
        ),
    ]
    for_: (
        Annotated[
            Duration,
            Meta(
                gt=0,
                le=600,
                description="The longest wait from the first counted token on; with fewer tokens by then, `when_unscored` decides.",
                examples=["400ms"],
            ),
        ]
        | None
    ) = msgspec.field(default=None, name="for")


class DeferWhen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a reply is not good enough, so that the next stage is asked. One of `score`, `calibration`, `any` and `all`."""

    score: (
        Annotated[
            ScoreName,
            Meta(
                description="A number computed from the evidence of the held tokens, held against `below` or `above`. `energy` needs "
                "`evidence: logits`.",
                examples=["mean_logprob"],
            ),
        ]
        | None
    ) = None
    below: (
        Annotated[
            float,
            Meta(
                description="Defer where the score is lower: for the log-probabilities and `margin`, which are high for a sure answer.",
                examples=[-0.35],
            ),
        ]
        | None
    ) = None
    above: (
        Annotated[
            float,
            Meta(
                description="Defer where the score is higher: for `perplexity`, `entropy` and `energy`, which are low for a sure answer.",
                examples=[1.4],
            ),
        ]
        | None
    ) = None
    q: (
        Annotated[
            float,
            Meta(ge=0, le=1, description="Which quantile, for `quantile_logprob`: 0.1 is the tenth that is least likely.", examples=[0.1]),
        ]
        | None
    ) = None
    calibration: (
        Annotated[
            File,
            Meta(
                description="A learned score with the threshold that was certified for it: a file of `headgate calibrate cascade`, "
                "relative to the policy file. It holds for the backend, prefix length, tokens and evidence it was made for.",
                examples=["calibrations/support.json"],
            ),
        ]
        | None
    ) = None
    any: Annotated[
        tuple[DeferWhen, ...],
        Meta(
            max_length=CONDITIONS_MAX,
            description="Defer where one of these says so.",
            examples=[[{"score": "min_logprob", "below": -6}, {"score": "entropy", "above": 1.4}]],
        ),
    ] = ()
    all: Annotated[
        tuple[DeferWhen, ...],
        Meta(
            max_length=CONDITIONS_MAX,
            description="Defer where all of these say so.",
            examples=[[{"score": "mean_logprob", "below": -0.3}, {"score": "margin", "below": 1}]],
        ),
    ] = ()


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A backend that is asked before a stronger one. A call that fails goes to the next stage, whatever the failure."""

    backend: Annotated[Name, Meta(description="The backend that is asked.", examples=["support-ft-v3"])]
    hold: Annotated[
        Literal["none", "all"] | HoldFor,
        Meta(
            description="How much of a reply is kept back until it is judged. `defer_when` needs a hold.",
            examples=[{"tokens": 24, "for": "400ms"}],
        ),
    ] = "none"
    defer_when: (
        Annotated[
            DeferWhen,
            Meta(
                description="When a reply is not good enough, so that the next stage is asked; left out: never.",
                examples=[{"score": "mean_logprob", "below": -0.35}],
            ),
        ]
        | None
    ) = None
    tokens: Annotated[
        TokenKind,
        Meta(
            description="Which tokens are counted and scored: those of the answer's text (reasoning left out), of the arguments of tool "
            "calls, or all.",
            examples=["content"],
        ),
    ] = "content"
    when_unscored: Annotated[
        Literal["serve", "defer"],
        Meta(
            description="What becomes of a reply whose score cannot be computed: without evidence, or cut short by `hold.for`.",
            examples=["serve"],
        ),
    ] = "serve"


class LastStage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The strong end of a cascade, with failover."""

    failover: Annotated[
        tuple[Name, ...],
        Meta(max_length=CALLS_MAX, description="Backends in order, as in a route's `failover`.", examples=[["llama-70b", "mixtral"]]),
    ]


class DeferLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keeps a bad day from sending everything to the strong model. Counted by each worker for itself."""

    percent: Annotated[
        Share,
        Meta(description="Of the judged replies of the window so many may be deferred.", examples=[40]),
    ]
    window: Annotated[Duration, Meta(ge=1, le=86400, description="How far back is counted.", examples=["10m"])] = 600.0
    when_exceeded: Annotated[
        Literal["serve", "refuse"],
        Meta(
            description="A reply that would be deferred beyond it is served as it is, flagged low confidence, or refused with a 503 whose "
            "code is `defer_limit`.",
            examples=["serve"],
        ),
    ] = "serve"


class Audit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Checks a sample of a cascade's decisions, once the client has its answer."""

    accepted_percent: Annotated[
        Percent,
        Meta(description="Of the accepted replies: the last stage is asked the same, and the two are compared.", examples=[2]),
    ] = 0.0
    deferred_percent: Annotated[
        Percent,
        Meta(
            description="Of the deferred replies: the deferred model may finish, and its reply is compared with the answer, so that "
            "records can calibrate again.",
            examples=[2],
        ),
    ] = 0.0
    agree: Annotated[
        Agreement,
        Meta(
            description="When two answers agree: the same text, the same label (the first line, without regard to case and marks around "
            "it), or JSON objects with the same fields and values. Tool calls must be the same. `judge` is not supported yet.",
            examples=["label"],
        ),
    ] = "exact"
    on_violation: Annotated[
        Literal["alert", "tighten", "disable"],
        Meta(
            description="What happens when the audited loss exceeds what the calibration promised: an alert; also accept half as much; or "
            "also send everything to the last stage.",
            examples=["alert"],
        ),
    ] = "alert"


class Cascade(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cheap models first, a strong one where they are not sure."""

    stages: Annotated[tuple[Stage, ...], Meta(min_length=1, max_length=STAGES_MAX)]
    last: Annotated[
        Name | LastStage,
        Meta(
            description="The backend whose reply is served unjudged, or `{failover: [...]}`.",
            examples=["llama-70b"],
        ),
    ]
    when_last_fails: Annotated[
        Literal["fail", "serve_held"],
        Meta(
            description="Where the last stage fails: its error, or the last deferred reply, flagged low confidence. For the latter a "
            "deferred call is not cancelled before the last stage has begun to answer.",
            examples=["serve_held"],
        ),
    ] = "fail"
    defer_limit: DeferLimit | None = None
    audit: Audit | None = None


class Hedge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A second call where the first is slow to answer: the first that begins to answer serves, the other is cancelled."""

    after: Annotated[
        Percentile | Annotated[Duration, Meta(gt=0, le=600)],
        Meta(
            description="How long the first call has, from when it was sent: a duration, or `p50`, `p90`, `p95`, `p99` of its usual time.",
            examples=["p95"],
        ),
    ]
    budget_percent: Annotated[
        Share,
        Meta(description="Second calls at most, as a share of the recent first ones.", examples=[5]),
    ] = 5.0
    to: Annotated[
        Name,
        Meta(
            description="`replica`: every call, to another replica of its backend. Or a backend: beside the route's first one, in a "
            "cascade beside the first of its last stage.",
            examples=["replica"],
        ),
    ] = TO_REPLICA
