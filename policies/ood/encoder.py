"""A sentence encoder in numpy: MiniLM (six layers of BERT, 384 wide), mean of the last layer over the pieces, of unit length.

Some milliseconds a text, so never on an event loop: fit runs it, and so does a process of its own that scores. The weights come
from a package that is not installed by default; see docs/ood.md for its licence.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from policies.ood.wordpiece import WordPieces

Floats = NDArray[np.float32]

PIECES_MAX = 126
"""Pieces of a text that are read: the model was made for 128 with its two marks."""
WEIGHTS_BYTES_MAX = 1 << 28
HEADS = 12
BATCH = 32
_EPSILON = 1e-12
_TYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64}


class EncoderError(ValueError):
    """The files are not the encoder that this code can run; the message says why."""


class _Layer(NamedTuple):
    """One layer's matrices, inputs first: (384, 1152) for query, key and value side by side, and so on; each with its bias."""

    qkv: tuple[Floats, Floats]
    attended: tuple[Floats, Floats]
    attended_norm: tuple[Floats, Floats]
    wide: tuple[Floats, Floats]
    narrow: tuple[Floats, Floats]
    norm: tuple[Floats, Floats]


class Encoder:
    """Texts to unit vectors. Holds about 90 MB; not for use by several threads at once."""

    def __init__(self, weights: bytes, vocabulary: str) -> None:
        """From a safetensors file and a vocabulary of one piece a line. Raises EncoderError."""
        tensors = read_tensors(weights)
        self.fingerprint = sha256(weights).hexdigest()
        try:
            self._pieces = WordPieces(vocabulary.rstrip("\n").split("\n"))
            self._words = tensors["embeddings.word_embeddings.weight"]
            positions = tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
            self._positions = positions[: PIECES_MAX + 2]
            self._first = tensors["embeddings.LayerNorm.weight"], tensors["embeddings.LayerNorm.bias"]
            count = sum(name.endswith("attention.self.query.weight") for name in tensors)
            self._layers = [_layer(tensors, f"encoder.layer.{number}.") for number in range(count)]
        except (KeyError, ValueError) as error:
            raise EncoderError(f"the encoder's files do not fit: {error}") from None
        if len(self._words) != len(vocabulary.rstrip("\n").split("\n")):
            raise EncoderError("the encoder's vocabulary is not of the same length as its table")

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return int(self._words.shape[1])

    def encode(self, text: str) -> Floats:
        """(width,), of unit length."""
        vector: Floats = self._encode(np.array([self._pieces.split(text, PIECES_MAX)]))[0]
        return vector

    def encode_all(self, texts: Sequence[str]) -> Floats:
        """(n, width): as `encode` up to rounding, several times as fast: texts of as many pieces go through together."""
        lengths: dict[int, list[int]] = {}
        split = [self._pieces.split(text, PIECES_MAX) for text in texts]
        for at, pieces in enumerate(split):
            lengths.setdefault(len(pieces), []).append(at)
        found = np.zeros((len(texts), self.width), np.float32)
        for alike in lengths.values():
            for start in range(0, len(alike), BATCH):
                some = alike[start : start + BATCH]
                found[some] = self._encode(np.array([split[at] for at in some]))
        return found

    def _encode(self, pieces: NDArray[np.int64]) -> Floats:
        """(B, n) numbers of pieces to (B, width)."""
        texts, count = pieces.shape
        state = _normed((self._words[pieces] + self._positions[:count]).reshape(texts * count, -1), *self._first)
        for layer in self._layers:
            state = _normed(state + _through(_attend(_through(state, layer.qkv), texts), layer.attended), *layer.attended_norm)
            state = _normed(state + _through(_gelu(_through(state, layer.wide)), layer.narrow), *layer.norm)
        mean = state.reshape(texts, count, -1).mean(axis=1)
        return np.asarray(mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9), np.float32)


def read_tensors(data: bytes) -> dict[str, Floats]:
    """The tensors of a safetensors file, as float32. Raises EncoderError for one that is truncated, damaged or enormous."""
    if len(data) > WEIGHTS_BYTES_MAX:
        raise EncoderError(f"the weights are {len(data)} bytes, more than {WEIGHTS_BYTES_MAX}")
    try:
        (length,) = struct.unpack_from("<Q", data)
        header: dict[str, Any] = msgspec.json.decode(data[8 : 8 + length])
        start = 8 + length
        found = {}
        for name, each in header.items():
            if name == "__metadata__":
                continue
            first, last = each["data_offsets"]
            if start + last > len(data):
                raise EncoderError(f"the weights are truncated: {name} ends at byte {start + last} of {len(data)}")
            array = np.frombuffer(data[start + first : start + last], _TYPES[each["dtype"]]).reshape(each["shape"])
            found[name] = array.astype(np.float32)
        return found
    except EncoderError:
        raise
    except (struct.error, msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise EncoderError(f"the weights are no safetensors file ({error})") from None


def _layer(tensors: dict[str, Floats], at: str) -> _Layer:
    def matrix(name: str) -> tuple[Floats, Floats]:
        return np.ascontiguousarray(tensors[f"{at}{name}.weight"].T), tensors[f"{at}{name}.bias"]

    def norm(name: str) -> tuple[Floats, Floats]:
        return tensors[f"{at}{name}.weight"], tensors[f"{at}{name}.bias"]

    three = [matrix(f"attention.self.{name}") for name in ("query", "key", "value")]
    return _Layer(
        (np.hstack([each[0] for each in three]), np.concatenate([each[1] for each in three])),
        matrix("attention.output.dense"),
        norm("attention.output.LayerNorm"),
        matrix("intermediate.dense"),
        matrix("output.dense"),
        norm("output.LayerNorm"),
    )


def _through(state: Floats, layer: tuple[Floats, Floats]) -> Floats:
    return state @ layer[0] + layer[1]


def _attend(qkv: Floats, texts: int) -> Floats:
    """(texts * n, 3 * width) to (texts * n, width): every piece looks at every other of its text, by each head."""
    count, wide = len(qkv) // texts, qkv.shape[1] // 3
    query, key, value = qkv.reshape(texts, count, 3, HEADS, wide // HEADS).transpose(2, 0, 3, 1, 4)
    weights = query @ key.swapaxes(2, 3) * np.float32((wide // HEADS) ** -0.5)
    weights = np.exp(weights - weights.max(axis=3, keepdims=True))
    weights /= weights.sum(axis=3, keepdims=True)
    return np.asarray((weights @ value).transpose(0, 2, 1, 3).reshape(texts * count, wide), np.float32)


def _normed(state: Floats, weight: Floats, bias: Floats) -> Floats:
    state = state - state.mean(axis=1, keepdims=True)
    scale = np.sqrt((state * state).mean(axis=1, keepdims=True) + np.float32(_EPSILON))
    return np.asarray(state / scale * weight + bias, np.float32)


def _gelu(state: Floats) -> Floats:
    """x times the normal distribution function, whose error function is within 1.5e-7 (Abramowitz & Stegun 7.1.26)."""
    size = np.abs(state) * np.float32(0.5**0.5)
    t = 1 / (1 + np.float32(0.3275911) * size)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    upper = series.astype(np.float32) * np.exp(-size * size) / 2
    return np.asarray(state * np.where(state >= 0, 1 - upper, upper), np.float32)
