"""Secrets are given by reference, `${env:NAME}` or `${file:PATH}`, and no message ever shows what they hold. Other files are named."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

SECRET_BYTES_MAX = 64 * 1024
REFERENCE = r"^\$\{(env|file):([^{}\x00-\x1f\x7f]+)\}$"


class References:
    """Fills in `${env:NAME}` and `${file:PATH}`, and remembers the files."""

    def __init__(self, read: Callable[[str], bytes], env: Mapping[str, str]) -> None:
        self._read = read
        self._env = env
        self.files: dict[str, bytes] = {}

    def resolve(self, text: str) -> str:
        """The value, or ValueError with a message that names the place and never the value."""
        found = re.fullmatch(REFERENCE, text)
        if found is None:
            raise ValueError("a secret is given by reference only")
        return self._variable(found[2]) if found[1] == "env" else self._file(found[2])

    def _variable(self, name: str) -> str:
        if name not in self._env:
            raise ValueError(f"the environment variable {name} is not set")
        return self._checked(self._env[name], f"the environment variable {name}")

    def content(self, path: str) -> bytes:
        """What a file holds, or ValueError with a message that says why it cannot be read."""
        if path not in self.files:
            try:
                self.files[path] = self._read(path)
            except OSError as error:
                raise ValueError(f"cannot read the file {path}: {error.strerror or type(error).__name__}") from None
            except ValueError:
                raise ValueError(f"cannot read the file {path}: not a path") from None
        return self.files[path]

    def _file(self, path: str) -> str:
        data = self.content(path)
        if len(data) > SECRET_BYTES_MAX:
            raise ValueError(f"the file {path} has more than {SECRET_BYTES_MAX} bytes")
        try:
            return self._checked(data.decode("utf-8-sig"), f"the file {path}")
        except UnicodeDecodeError:
            raise ValueError(f"the file {path} is not text") from None

    def _checked(self, value: str, source: str) -> str:
        value = value.strip()
        if not value:
            raise ValueError(f"{source} is empty")
        return value
