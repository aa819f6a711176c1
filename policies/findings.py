"""What the checks of a policy share: where things stand, and which reports would only repeat an earlier one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from policies.errors import Mark, Report, nearest, shown
from policies.read import Reading
from policies.schema import Policy

_SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")


class Findings:
    """Reports errors and warnings by path. Says nothing of a value that could not be read: that was reported already."""

    def __init__(self, reading: Reading, errors: Report, warnings: Report) -> None:
        self.policy: Policy = reading.policy
        self._reading = reading
        self._errors = errors
        self._warnings = warnings
        self.files = reading.files
        """What the files hold that the policy names, as far as they could be read."""
        self.labels = frozenset(label for key in self.policy.keys for label in key.labels.items())
        """(label, value) of all keys."""
        self._names: dict[str, frozenset[str] | None] = {}

    def error(self, path: str, message: str, hint: str = "") -> None:
        if not self._known_faulty(path):
            self._errors.add(self._place(path), path, message, hint)

    def warning(self, path: str, message: str, hint: str = "") -> None:
        if not self._known_faulty(path):
            self._warnings.add(self._place(path), path, message, hint)

    def written(self, path: str) -> bool:
        """The file says it, rather than leaving it at its default."""
        return path in self._reading.places

    def complete(self, path: str) -> bool:
        """No key of this group was refused: what is not there was left out on purpose."""
        return path not in self._reading.incomplete and not self._known_faulty(path)

    def readable(self, path: str) -> bool:
        """Neither it nor anything around it was reported as unreadable."""
        return not self._known_faulty(path)

    def line(self, path: str) -> int:
        return self._place(path).line

    def unique(self, paths_and_names: Iterable[tuple[str, str]], what: str) -> None:
        """`what` names the things: "backends"."""
        first: dict[str, str] = {}
        for path, name in paths_and_names:
            if not self.readable(path):
                continue
            if name in first:
                self.error(path, f"two {what} are named {shown(name)}, the first on line {self.line(first[name])}")
            else:
                first[name] = path

    def without_repeats(self, path: str, values: Iterable[str]) -> None:
        seen: set[str] = set()
        for index, value in enumerate(values):
            if value in seen:
                self.error(f"{path}[{index}]", f"{shown(value)} stands here twice")
            seen.add(value)

    def refers(self, path: str, name: str, collection: str, what: str) -> None:
        """`name` must be that of an entry of the top-level list `collection`, whose entries are each a `what`."""
        if collection not in self._names:
            self._names[collection] = self._names_of(collection)
        names = self._names[collection]
        if names is None or name in names:
            return
        hint = nearest(name, names) if names else f"there are no {collection}"
        self.error(path, f"no {what} is named {shown(name)}", hint)

    def _names_of(self, collection: str) -> frozenset[str] | None:
        """None where some of them could not be read, so that none can be said to be missing."""
        entries = getattr(self.policy, collection)
        listed = self.readable(collection) and all(self.readable(f"{collection}[{i}].name") for i in range(len(entries)))
        return frozenset(entry.name for entry in entries) if listed and (entries or self.complete("")) else None

    def header(self, path: str, name: str) -> None:
        """A header that labels are read from."""
        if not _HEADER.fullmatch(name):
            self.error(path, f"{shown(name)} is not the name of a header")
        elif name.lower() in _SECRET_HEADERS:
            self.error(path, f"the header {name.lower()} holds a secret, which would be in records and metrics")

    def _known_faulty(self, path: str) -> bool:
        faulty = self._reading.faulty
        if not faulty:
            return False
        while path not in faulty:
            if not path:
                return False
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return True

    def _place(self, path: str) -> Mark:
        while path not in self._reading.places and path:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self._reading.places.get(path, Mark(1, 1))


def url_fault(text: str) -> str:
    """Why this is not the base URL of an HTTP server, without showing it; "" where it is one."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if any(character.isspace() or not character.isprintable() for character in text):
        return "has white space in it"
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return "does not begin with http:// or https:// and a host"
    if not parts.hostname or port == 0:
        return "has no host" if not parts.hostname else "has port 0"
    if parts.username is not None or parts.password is not None:
        return "has a user or password in it"
    return "has a fragment" if parts.fragment else ""
