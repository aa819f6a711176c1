"""A small domain, made up: each class has verbs and things of its own, and some words are everyone's."""

from __future__ import annotations

import random

from policies.ood.fit import Example, Fitted, fit

_VERBS = ["cancel", "track", "change", "pay", "print", "lend", "repair", "lock"]
_THINGS = ["parcel", "invoice", "tyre", "ticket", "recipe", "guitar", "camera", "lease"]
_FILLER = ["please", "my", "the", "a", "today", "can you", "i want to", "how do i", "for me", "again"]
_OTHER = ["quasar", "mitochondria", "sonnet", "glacier", "senate", "volcano", "monsoon", "fresco"]


def examples(count: int, seed: int, *, labels: bool = True, segments: bool = False) -> list[Example]:
    rng = random.Random(seed)
    found = []
    for number in range(count):
        at = number % len(_VERBS)
        words = [*rng.sample(_FILLER, 3), _VERBS[at], _THINGS[at]]
        rng.shuffle(words)
        segment = "even" if number % 2 == 0 else "odd"
        found.append(Example(" ".join(words) + f" {number}", str(at) if labels else None, segment if segments else None))
    return found


def outsiders(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.sample(_FILLER, 2) + rng.sample(_OTHER, 3)) for _ in range(count)]


def small(*, labels: bool = True, outliers: int = 0) -> Fitted:
    """A detector, fitted in about a second."""
    apart = [Example(text) for text in outsiders(outliers, 5)]
    return fit(examples(320, 1, labels=labels), examples(450, 2, segments=True), outliers=apart)
