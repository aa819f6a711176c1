"""Where a gateway keeps things: its state folder, and the user's admin key."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from gateway.cli.output import CommandError

ADMIN_KEY_CHARS_MAX = 1024
STATE_DIR_BYTES_MAX = 92
"""The state folder holds a Unix socket, and the address of one has room for 104 bytes on the narrowest system."""
STEM_CHARS_MAX = 24


def state_home() -> Path:
    """`$XDG_STATE_HOME/headgate`, by default `~/.local/state/headgate`."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "headgate"


def state_dir(policy: Path) -> Path:
    """The state folder of the gateway that runs this policy file: one for each path, so that two files never share records."""
    digest = hashlib.sha256(os.fsencode(policy.absolute())).hexdigest()[:8]
    return state_home() / f"{policy.stem[:STEM_CHARS_MAX]}-{digest}"


def admin_key() -> str:
    """The user's admin key, made when there is none: a file that only the user can read, shared by the gateway and the commands."""
    path = state_home() / "admin.key"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            key = path.read_text(encoding="utf-8")[:ADMIN_KEY_CHARS_MAX].strip()
        else:
            key = new_key()
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(f"{key}\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read or make the admin key {path}: {error}; give one with --admin-key or HEADGATE_ADMIN_KEY") from error
    if not key:
        raise CommandError(f"the admin key file {path} is empty: delete it and a new one is made")
    return key


def new_key() -> str:
    """A random key of 256 bits, with a prefix by which a leaked one is recognised."""
    return f"hg-{secrets.token_urlsafe(32)}"
