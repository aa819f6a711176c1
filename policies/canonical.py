"""The canonical form: defaults filled in, keys in a fixed order, secrets replaced by their SHA-256. The version is its hash."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import msgspec

from policies.fields import Group, Leaf, Many, Shape, policy_shape
from policies.schema import Policy

VERSION_DIGITS = 16


def canonical(policy: Policy) -> bytes:
    """JSON that says what the policy means and tells no secret. `policies.compile.decode` reads it."""
    return msgspec.json.encode(without_secrets(policy), order="deterministic")


def version(form: bytes, files: Mapping[str, bytes]) -> str:
    """Short hash of the canonical form and of every file that the policy names."""
    digest = sha256(sha256(form).digest())
    for path in sorted(files):
        digest.update(sha256(path.encode()).digest() + sha256(files[path]).digest())
    return digest.hexdigest()[:VERSION_DIGITS]


def without_secrets(policy: Policy) -> Policy:
    """The same policy with `sha256:...` in the place of every secret."""
    result = _map_secrets(policy, policy_shape(), lambda value: f"sha256:{sha256(value.encode()).hexdigest()}")
    assert isinstance(result, Policy)
    return result


def _map_secrets(value: Any, shape: Shape, replace: Callable[[str], str]) -> Any:
    if value is None:
        return None
    if isinstance(shape, Leaf):
        return replace(value) if shape.unit == "secret" else value
    if isinstance(shape, Many):
        return tuple(_map_secrets(item, shape.item, replace) for item in value)
    if isinstance(shape, Group):
        changed = {f.attribute: _map_secrets(getattr(value, f.attribute), f.shape, replace) for f in shape.fields}
        return msgspec.structs.replace(value, **changed)
    return value
