"""A model on disk: `<name>.npz` with float16 tensors under their Hugging Face names, and `card.json` with every model's facts."""

from __future__ import annotations

import importlib.resources
import io
import json
from dataclasses import asdict, dataclass
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Config:
    """The shape of a Llama model: every query head has a key head of its own, input and output embeddings are one matrix."""

    width: int
    layers: int
    heads: int
    hidden: int
    """Width of the SwiGLU layer."""
    vocabulary: int = 1024
    context: int = 2048
    """Tokens of prompt and answer together."""
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter of `base`: to each named projection it adds `scale * B @ A`."""

    base: str
    rank: int
    alpha: int
    targets: tuple[str, ...]

    @property
    def scale(self) -> float:
        """What the product of the two factors is multiplied with."""
        return self.alpha / self.rank


def folder() -> Traversable:
    """Return where the shipped weights lie."""
    return importlib.resources.files("gateway.embedded") / "weights"


def card(at: Traversable | None = None) -> dict[str, Any]:
    """Return `card.json`: for each model its configuration and how it was trained."""
    parsed: dict[str, Any] = json.loads(((at or folder()) / "card.json").read_text(encoding="utf-8"))
    return parsed


def load(name: str, at: Traversable | None = None) -> dict[str, Float32]:
    """Return a model's or an adapter's tensors as float32."""
    data = ((at or folder()) / f"{name}.npz").read_bytes()
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {key: arrays[key].astype(np.float32) for key in arrays.files}


def config_of(facts: dict[str, Any]) -> Config:
    """Read a model's configuration from its entry in the card."""
    return Config(**facts["config"])


def adapter_of(facts: dict[str, Any]) -> Adapter:
    """Read an adapter's description from its entry in the card."""
    return Adapter(**{**facts["adapter"], "targets": tuple(facts["adapter"]["targets"])})


def described(what: Config | Adapter) -> dict[str, Any]:
    """Return the description as the card has it."""
    return asdict(what)


def merged(tensors: dict[str, Float32], adapter: Adapter, factors: dict[str, Float32]) -> dict[str, Float32]:
    """Return the base model's tensors with the adapter added in."""
    result = dict(tensors)
    for name in tensors:
        stem = name.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in factors:
            product: Float32 = factors[f"{stem}.lora_B.weight"] @ factors[f"{stem}.lora_A.weight"]
            result[name] = tensors[name] + np.float32(adapter.scale) * product
    return result
