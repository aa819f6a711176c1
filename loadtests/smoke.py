"""The figures that a change of the data plane is judged by, in about a minute: `python -m loadtests.smoke [--rounds 3] [--seconds 4]`.

It is `loadtests.run` with Headgate and nginx and three scenarios; its other options can be given, too.
"""

from __future__ import annotations

import sys

from loadtests import run

SCENARIOS = ("request-32", "prompt-32k", "stream-256")


def main() -> int:
    chosen = [word for name in SCENARIOS for word in ("--scenario", name)]
    return run.main(["--subject", "headgate", "--subject", "nginx", *chosen, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
