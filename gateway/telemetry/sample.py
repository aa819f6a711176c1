"""What is sent of one counter or histogram."""

from __future__ import annotations

import msgspec


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One child's cumulative value. A histogram has `buckets` (not cumulative over the bounds, the last one open) and its sum
    in `value`."""

    metric: str
    labels: tuple[str, ...]
    value: float
    buckets: tuple[int, ...] = ()
