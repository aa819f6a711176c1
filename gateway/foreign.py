"""Runs a program that knows nothing of Headgate, and ends it when the supervisor is gone: the program's end of the tether.

`python -m gateway.foreign FD PROGRAM ARGUMENT...`; FD is one end of a socket pair whose other end only the supervisor holds.
The program inherits every other descriptor that was handed down, and gets SIGTERM and SIGINT passed on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

TERMINATE_S = 10.0
"""Between asking the program to end and killing it."""


def main() -> int:
    """The program's exit code; 128 + N where signal N killed it, 127 where it cannot be started."""
    tether, argv = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(tether, False)
    try:
        process = subprocess.Popen(argv, close_fds=False)
    except OSError as error:
        print(f"cannot start {argv[0]}: {error.strerror}", file=sys.stderr)
        return 127
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: process.send_signal(number))
    threading.Thread(target=_end_with_supervisor, args=(tether, process), daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


def _end_with_supervisor(tether: int, process: subprocess.Popen[bytes]) -> None:
    while os.read(tether, 4096):
        pass
    process.terminate()
    time.sleep(TERMINATE_S)  # the process ends with the main thread, should the program do as it was asked
    process.kill()


if __name__ == "__main__":
    raise SystemExit(main())
