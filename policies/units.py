"""Durations and sizes as the policy file writes them."""

from __future__ import annotations

import re

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
}
NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,6})?"
DURATION = rf"^({NUMBER})(ms|s|m|h|d)$"
SIZE = rf"^({NUMBER})(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$"
GROUPED = r"^[0-9]{1,3}(_[0-9]{3})+$"
"""`1_000_000`: text in YAML 1.2, accepted where a whole number belongs."""


def duration(text: str) -> float | None:
    """Seconds, or None where it is not a duration."""
    found = re.fullmatch(DURATION, text)
    # Milliseconds are divided, not multiplied: 400 * 0.001 is not 0.4.
    if found is None:
        return None
    return float(found[1]) / 1000 if found[2] == "ms" else float(found[1]) * _SECONDS[found[2]]


def size(text: str) -> int | None:
    """Bytes, or None where it is not a size or not a whole number of bytes."""
    found = re.fullmatch(SIZE, text)
    if found is None:
        return None
    whole, _, fraction = found[1].partition(".")
    factor = _BYTES[found[2]]
    count, rest = divmod(int(whole + fraction) * factor, 10 ** len(fraction))
    return None if rest else count


def show_duration(seconds: float) -> str:
    """The shortest way to write it: 600.0 is `10m`."""
    for unit, factor in reversed(_SECONDS.items()):
        if seconds >= factor and (seconds / factor).is_integer():
            return f"{seconds / factor:.0f}{unit}"
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"


def show_size(count: int) -> str:
    """The shortest way to write it: 33554432 is `32MiB`."""
    for unit, factor in sorted(_BYTES.items(), key=lambda item: -item[1]):
        if count >= factor and count % factor == 0:
            return f"{count // factor}{unit}"
    return f"{count}B"
