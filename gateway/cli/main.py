"""`headgate`: the first lines of its process. Nothing is imported at the top that takes time: see `main`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

RUN_UNTIL_TOLD = ("serve", "demo")
"""The commands that take signals."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line. Exit codes: 0 well, 1 the thing checked is wrong, 2 usage.

    SIGUSR2 asks a gateway for new workers, and would end a process that is not yet one. While this one starts there are none to be
    replaced, so that the signal is ignored until the supervisor takes it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    asked = next((word for word in arguments if not word.startswith("-")), "")
    if asked in RUN_UNTIL_TOLD and signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    from gateway.cli.commands import run

    return run(arguments, asked)


if __name__ == "__main__":
    raise SystemExit(main())
