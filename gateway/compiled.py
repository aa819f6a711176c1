"""Whether the request path runs compiled (docs/adr/0008-the-request-path-is-compiled.md), and from which sources."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path


def is_compiled(root: Path | None = None) -> bool:
    """Some module of the package at `root` (this one) is compiled."""
    return next(_extensions(root), None) is not None


def changed_since(root: Path | None = None) -> list[Path]:
    """Sources that were written after they were compiled: what runs is not what they say."""
    found = []
    for extension, suffix in _extensions(root):
        source = extension.with_name(extension.name.removesuffix(suffix) + ".py")
        if source.exists() and source.stat().st_mtime > extension.stat().st_mtime:
            found.append(source)
    return sorted(found)


def _extensions(root: Path | None) -> Iterator[tuple[Path, str]]:
    for suffix in EXTENSION_SUFFIXES[:1]:  # the first is this interpreter's own
        for extension in (root or Path(__file__).parent).rglob(f"*{suffix}"):
            yield extension, suffix
