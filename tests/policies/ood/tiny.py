"""A tiny encoder with made-up weights: the files that `policies.ood.encoder` and `policies.ood.table` read."""

from __future__ import annotations

import json
import struct
from functools import cache

import numpy as np

from policies.ood.artifact import dumps
from policies.ood.encoder import Encoder
from policies.ood.fit import fit

from .generated import _FILLER, _OTHER, _THINGS, _VERBS, examples

WIDTH = 24
_LAYERS = 2
VOCABULARY = "\n".join(
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    + sorted({word for part in (_FILLER, _OTHER, _THINGS, _VERBS) for each in part for word in each.split()})
    + ["un", "##lock", "##ing", "##s", "?", ",", "_", "支"]
    + list("0123456789")
    + [f"##{digit}" for digit in range(10)]
)


def tensors(seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def made(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32) * np.float32(0.4)

    found = {
        "embeddings.word_embeddings.weight": made(len(VOCABULARY.split("\n")), WIDTH),
        "embeddings.position_embeddings.weight": made(512, WIDTH) * 0.1,
        "embeddings.token_type_embeddings.weight": made(2, WIDTH) * 0.1,
        "embeddings.LayerNorm.weight": 1 + made(WIDTH),
        "embeddings.LayerNorm.bias": made(WIDTH),
    }
    shapes = {
        "attention.self.query": (WIDTH, WIDTH), "attention.self.key": (WIDTH, WIDTH), "attention.self.value": (WIDTH, WIDTH),
        "attention.output.dense": (WIDTH, WIDTH), "intermediate.dense": (4 * WIDTH, WIDTH), "output.dense": (WIDTH, 4 * WIDTH),
    }  # fmt: skip
    for number in range(_LAYERS):
        for name, shape in shapes.items():
            found[f"encoder.layer.{number}.{name}.weight"] = made(*shape)
            found[f"encoder.layer.{number}.{name}.bias"] = made(shape[0])
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            found[f"encoder.layer.{number}.{name}.weight"] = 1 + made(WIDTH)
            found[f"encoder.layer.{number}.{name}.bias"] = made(WIDTH)
    return found


def weights(of: dict[str, np.ndarray] | None = None) -> bytes:
    """A safetensors file."""
    header, body = {}, b""
    for name, array in (of or tensors()).items():
        data = array.astype(np.float32).tobytes()
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    head = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return struct.pack("<Q", len(head)) + head + body


@cache
def encoder() -> Encoder:
    return Encoder(weights(), VOCABULARY)


@cache
def slow_artifact(seed: int = 1) -> bytes:
    """A detector that needs the tiny encoder."""
    return dumps(fit(examples(160, seed), examples(100, 2), encoder=encoder()).detector)
