"""The pretrained table and encoder as the commands take them: what is wrong with the package is wrong with how they were called."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from gateway.cli.output import USAGE, CommandError
from gateway.scoring import pretrained
from policies.ood.encoder import Encoder
from policies.ood.table import Table

Pretrained: TypeAlias = Literal["auto", "none", "table", "encoder"]
PRETRAINED: tuple[Pretrained, ...] = get_args(Pretrained)


def read_table() -> Table:
    """Raises CommandError where the package is not installed, or is not what this code can read."""
    try:
        return pretrained.read_table()
    except pretrained.PretrainedError as error:
        raise CommandError(str(error), USAGE) from None


def read_encoder(fingerprint: str = "") -> Encoder:
    """The encoder, by the weights of that SHA-256 if one is named. Raises CommandError."""
    try:
        return pretrained.read_encoder(fingerprint)
    except pretrained.PretrainedError as error:
        raise CommandError(str(error), USAGE) from None
