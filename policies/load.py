"""The text of a policy file to a policy, or to everything that is wrong with it. Pure: the caller reads the files."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from policies.canonical import canonical, version
from policies.check import check
from policies.compile import decode, encode
from policies.document import parse
from policies.errors import PolicyError, Problem, Report
from policies.read import read_policy
from policies.references import References
from policies.schema import Policy

__all__ = ["Loaded", "decode", "encode", "load"]


class Loaded(msgspec.Struct, frozen=True):
    """A valid policy."""

    policy: Policy
    """Secrets filled in: for `encode` and the link, never for people."""
    version: str
    canonical: bytes
    """Defaults filled in, secrets hashed: may be shown, stored and compared."""
    files: dict[str, bytes]
    """Every file that the policy names, by the path it is named by."""
    warnings: tuple[Problem, ...]


def load(text: bytes, *, name: str, read: Callable[[str], bytes], env: Mapping[str, str]) -> Loaded:
    """Raises PolicyError with every problem. `name` stands in messages; `read` is given paths as `${file:PATH}` names them, and
    raises OSError."""
    errors, warnings = Report(name), Report(name)
    root = parse(text, errors)
    if root is None:
        raise PolicyError(errors.sorted())
    references = References(read, env)
    reading = read_policy(root, errors, references)
    check(reading, errors, warnings)
    errors.raise_if_any()
    form = canonical(reading.policy)
    return Loaded(reading.policy, version(form, references.files), form, references.files, warnings.sorted())
