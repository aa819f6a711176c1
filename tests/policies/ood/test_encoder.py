from __future__ import annotations

import math

import numpy as np
import pytest

from policies.ood import encoder
from policies.ood.encoder import PIECES_MAX, Encoder, EncoderError, read_tensors
from policies.ood.wordpiece import WordPieces

from .tiny import VOCABULARY, WIDTH, tensors, weights


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return Encoder(weights(), VOCABULARY)


def by_hand(text: str) -> np.ndarray:
    """The same model, piece by piece and head by head, in double precision with the exact error function."""
    of = {name: array.astype(np.float64) for name, array in tensors().items()}

    def norm(x: np.ndarray, at: str) -> np.ndarray:
        return np.array([(row - row.mean()) / math.sqrt(row.var() + 1e-12) for row in x]) * of[f"{at}.weight"] + of[f"{at}.bias"]

    def linear(x: np.ndarray, at: str) -> np.ndarray:
        return x @ of[f"{at}.weight"].T + of[f"{at}.bias"]

    numbers = WordPieces(VOCABULARY.split("\n")).split(text, PIECES_MAX)
    state = of["embeddings.word_embeddings.weight"][numbers] + of["embeddings.position_embeddings.weight"][: len(numbers)]
    state = norm(state + of["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    size = WIDTH // encoder.HEADS
    for layer in ("encoder.layer.0.", "encoder.layer.1."):
        query, key, value = (linear(state, f"{layer}attention.self.{name}") for name in ("query", "key", "value"))
        seen = np.zeros_like(state)
        for head in range(encoder.HEADS):
            part = slice(head * size, (head + 1) * size)
            for at in range(len(numbers)):
                chance = np.array([math.exp(query[at, part] @ other / math.sqrt(size)) for other in key[:, part]])
                seen[at, part] = chance / chance.sum() @ value[:, part]
        state = norm(state + linear(seen, f"{layer}attention.output.dense"), f"{layer}attention.output.LayerNorm")
        wide = linear(state, f"{layer}intermediate.dense")
        wide *= np.vectorize(lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2))))(wide)
        state = norm(state + linear(wide, f"{layer}output.dense"), f"{layer}output.LayerNorm")
    mean = state.mean(axis=0)
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize("text", ["pay my invoice", "", "unlocking, please?", "pay " * 200])
def test_it_is_the_model_that_it_says(tiny: Encoder, text: str) -> None:
    np.testing.assert_allclose(tiny.encode(text), by_hand(text), atol=2e-5)


def test_many_texts_together_are_as_one_by_one(tiny: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "BATCH", 2)
    texts = ["pay my invoice", "lock", "track the parcel", "", "repair my camera", "lend"]
    np.testing.assert_allclose(tiny.encode_all(texts), np.stack([tiny.encode(text) for text in texts]), atol=1e-6)


def test_what_is_no_encoder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    good = weights()
    for data, message in ((good[:-8], "truncated"), (b"", "no safetensors file"), (b"\xff" * 64, "no safetensors file")):
        with pytest.raises(EncoderError, match=message):
            read_tensors(data)
    with pytest.raises(EncoderError, match=r"do not fit.*key\.weight"):
        Encoder(weights({name: array for name, array in tensors().items() if "layer.1.attention.self.key" not in name}), VOCABULARY)
    with pytest.raises(EncoderError, match="vocabulary is not of the same length"):
        Encoder(good, VOCABULARY + "\nmore")
    monkeypatch.setattr(encoder, "WEIGHTS_BYTES_MAX", 10)
    with pytest.raises(EncoderError, match="more than 10"):
        read_tensors(good)
