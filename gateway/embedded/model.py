"""A Llama transformer in numpy: float32, one sequence at a time, with a key-value cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gateway.embedded.weights import Config, Float32


class _Layer(NamedTuple):
    """One layer's matrices, transposed so that a row vector is multiplied from the left."""

    attention_norm: Float32
    qkv: Float32
    """(width, 3 * width)"""
    output: Float32
    """(width, width)"""
    mlp_norm: Float32
    gate_up: Float32
    """(width, 2 * hidden)"""
    down: Float32
    """(hidden, width)"""


class Cache:
    """Keys and values of the tokens seen so far: (layers, heads, capacity, head width) each. Grows by doubling."""

    def __init__(self, config: Config, capacity: int = 64) -> None:
        self.length = 0
        shape = (config.layers, config.heads, capacity, config.width // config.heads)
        self.keys = np.empty(shape, np.float32)
        self.values = np.empty(shape, np.float32)

    def reserve(self, more: int) -> None:
        """Make room for `more` tokens."""
        capacity = self.keys.shape[2]
        if self.length + more <= capacity:
            return
        grown = max(2 * capacity, self.length + more) - capacity
        padding = ((0, 0), (0, 0), (0, grown), (0, 0))
        self.keys, self.values = np.pad(self.keys, padding), np.pad(self.values, padding)

    def copy(self) -> Cache:
        """Return a cache that goes on from here by itself: one prefill serves several choices."""
        other = object.__new__(Cache)
        other.length, other.keys, other.values = self.length, self.keys.copy(), self.values.copy()
        return other


class Model:
    """Weights made ready to be run."""

    def __init__(self, config: Config, tensors: dict[str, Float32]) -> None:
        """Arrange tensors that have their Hugging Face names."""
        self.config = config
        self._embedding = tensors["model.embed_tokens.weight"]
        self._output = np.ascontiguousarray(self._embedding.T)
        self._norm = tensors["model.norm.weight"]
        self._layers = [_layer(tensors, f"model.layers.{i}") for i in range(config.layers)]
        head = config.width // config.heads
        inverse = config.rope_theta ** (-np.arange(0, head, 2, dtype=np.float32) / head)
        angles = np.arange(config.context, dtype=np.float32)[:, None] * inverse
        self._cos = np.cos(np.concatenate([angles, angles], 1))
        self._sin = np.sin(np.concatenate([-angles, angles], 1))
        """The sine of the first half negated: rotating is then `x cos + swapped sin`."""

    def hidden(self, ids: Sequence[int], cache: Cache) -> Float32:
        """Run `ids` after what the cache holds; returns their last hidden states, (len(ids), width)."""
        config, start, count = self.config, cache.length, len(ids)
        heads, head = config.heads, config.width // config.heads
        cache.reserve(count)
        end = start + count
        cos, sin = self._cos[start:end], self._sin[start:end]
        mask = None if count == 1 else np.triu(np.full((count, end), -np.inf, np.float32), start + 1)
        x = self._embedding[np.asarray(ids)]
        for i, layer in enumerate(self._layers):
            qkv = (_normed(x, layer.attention_norm, config.norm_eps) @ layer.qkv).reshape(count, 3, heads, head).transpose(1, 2, 0, 3)
            rotated = qkv[:2] * cos + _swapped(qkv[:2]) * sin
            cache.keys[i, :, start:end] = rotated[1]
            cache.values[i, :, start:end] = qkv[2]
            scores = rotated[0] @ cache.keys[i, :, :end].transpose(0, 2, 1) * np.float32(head**-0.5)
            if mask is not None:
                scores += mask
            attended = _softmax(scores) @ cache.values[i, :, :end]
            x = x + attended.transpose(1, 0, 2).reshape(count, config.width) @ layer.output
            gate_up = _normed(x, layer.mlp_norm, config.norm_eps) @ layer.gate_up
            gate, up = gate_up[:, : config.hidden], gate_up[:, config.hidden :]
            x = x + (gate / (1 + np.exp(-gate)) * up) @ layer.down
        cache.length = end
        return _normed(x, self._norm, config.norm_eps)

    def logits(self, hidden: Float32) -> Float32:
        """Return the logits of hidden states: (..., width) to (..., vocabulary)."""
        scores: Float32 = hidden @ self._output
        return scores


def _layer(tensors: dict[str, Float32], at: str) -> _Layer:
    def stacked(*names: str) -> Float32:
        return np.ascontiguousarray(np.concatenate([tensors[f"{at}.{name}.weight"] for name in names]).T)

    return _Layer(
        tensors[f"{at}.input_layernorm.weight"],
        stacked("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        stacked("self_attn.o_proj"),
        tensors[f"{at}.post_attention_layernorm.weight"],
        stacked("mlp.gate_proj", "mlp.up_proj"),
        stacked("mlp.down_proj"),
    )


def _normed(x: Float32, weight: Float32, eps: float) -> Float32:
    scaled: Float32 = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + np.float32(eps)) * weight
    return scaled


def _swapped(x: Float32) -> Float32:
    half = x.shape[-1] // 2
    return np.concatenate([x[..., half:], x[..., :half]], -1)


def _softmax(scores: Float32) -> Float32:
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(-1, keepdims=True)
    return scores
