"""The detectors that the scoring process has at hand. Blocking, and for one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from gateway.link.named_files import read_named
from gateway.scoring.pretrained import PretrainedError, read_encoder
from policies.detector import DETECTORS_MAX, DetectorError, open_artifact
from policies.ood.encoder import Encoder
from policies.ood.energy import Scored, Scorer

KEPT_MAX = 2 * DETECTORS_MAX
"""Those asked last are kept: of the policy in force, and of the one to come."""
RETRY_S = 10.0
"""One that could not be read is not tried again before."""


class Detectors:
    """Read by their digest, asked for several texts at once. Those with an encoder share the one that is installed."""

    def __init__(self, read: Callable[[str], Encoder] = read_encoder, now: Callable[[], float] = time.monotonic) -> None:
        """`read`: the encoder of that fingerprint, or PretrainedError."""
        self._read = read
        self._now = now
        self._encoder: Encoder | None = None
        self._scorers: dict[str, tuple[Scorer, Encoder | None]] = {}
        self._failed: dict[str, tuple[str, float]] = {}

    def open(self, digest: str, folder: str) -> str:
        """Have a detector at hand; "" or why it cannot be."""
        self._failed.pop(digest, None)  # somebody has asked for just this: try again
        found = self._found(digest, folder)
        return found if isinstance(found, str) else ""

    def score(self, digest: str, folder: str, texts: Sequence[str]) -> list[Scored] | None:
        """What it says of each text; None where it cannot be had. A text is scored as offline to the last bit; by an encoder
        together with others of as many pieces, up to rounding."""
        found = self._found(digest, folder)
        if isinstance(found, str):
            return None
        scorer, encoder = found
        if encoder is None:
            return [scorer.score(text) for text in texts]
        vectors = encoder.encode_all(texts)
        return [scorer.score(text, vector) for text, vector in zip(texts, vectors, strict=True)]

    def _found(self, digest: str, folder: str) -> tuple[Scorer, Encoder | None] | str:
        """Why not, where it cannot be had."""
        found = self._scorers.pop(digest, None)
        if found is None:
            why, until = self._failed.get(digest, ("", 0.0))
            if self._now() < until:
                return why
            try:
                found = self._opened(digest, folder)
            except (OSError, ValueError, DetectorError, PretrainedError) as error:
                while len(self._failed) >= KEPT_MAX:
                    del self._failed[next(iter(self._failed))]
                self._failed[digest] = (str(error), self._now() + RETRY_S)
                return str(error)
        self._scorers[digest] = found  # the last one asked stands last
        while len(self._scorers) > KEPT_MAX:
            del self._scorers[next(iter(self._scorers))]
        return found

    def _opened(self, digest: str, folder: str) -> tuple[Scorer, Encoder | None]:
        fitted = open_artifact(read_named(folder, digest))
        if not fitted.head.encodes:
            return Scorer(fitted.head), None
        wanted = fitted.facts.encoder
        if self._encoder is None or self._encoder.fingerprint != wanted:
            self._encoder = self._read(wanted)
        return Scorer(fitted.head, self._encoder.encode), self._encoder
