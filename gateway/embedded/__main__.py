"""Run the endpoint: `python -m gateway.embedded --port 8100`, or `--fd N` on a listening socket inherited from the parent."""

from __future__ import annotations

import argparse
import os


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m gateway.embedded", description="Serve the embedded models on loopback.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--fd", type=int, help="file descriptor of a listening socket")
    where.add_argument("--port", type=int, help="port on 127.0.0.1; 0 picks a free one and prints it")
    options = parser.parse_args()

    # Matrices this small are slower on many threads. Numpy reads this once, when it is first imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from gateway.embedded.serving import serve

    serve(fd=options.fd, port=options.port)


if __name__ == "__main__":
    main()
