"""A pretrained table: a vector for each word piece of a vocabulary, so that words that training never had still mean something.

It is made of an encoder's files at fit time and travels inside the detector; scoring needs numpy alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from policies.ood.encoder import EncoderError, Floats, read_tensors

WIDTH = 256
_TENSOR = "embeddings.word_embeddings.weight"
_MARKS = 1000
"""Pieces at the start of the vocabulary that are marks, signs and single letters."""
_EVERY = 4
"""Every fourth piece is enough to find the directions."""


class Table(NamedTuple):
    """Vectors of pieces."""

    vocabulary: tuple[str, ...]
    vectors: Floats
    """(V, WIDTH), one a piece, with a mean of about 0 and a spread of 1."""


NO_TABLE = Table((), np.zeros((0, 0), np.float32))


def table(weights: bytes, vocabulary: str) -> Table:
    """From a safetensors file and a vocabulary of one piece a line. Raises EncoderError."""
    pieces = tuple(vocabulary.rstrip("\n").split("\n"))
    full = read_tensors(weights).get(_TENSOR)
    if full is None or full.ndim != 2:
        raise EncoderError(f"the weights have no {_TENSOR}")
    if len(full) != len(pieces):
        raise EncoderError(f"the weights have {len(full)} pieces, and the vocabulary {len(pieces)}")
    full = full - full.mean(axis=0)
    some = full[_MARKS if len(full) > 2 * _MARKS else 0 :: _EVERY]
    _, directions = np.linalg.eigh(some.T @ some)
    vectors = full @ directions[:, ::-1][:, :WIDTH]
    return Table(pieces, (vectors / vectors.std()).astype(np.float16).astype(np.float32))
