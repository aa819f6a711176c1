"""`python -m gateway.scoring`: what the supervisor starts, once a policy has a detector that needs it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from gateway import settings as process_settings
from gateway.errors import LinkError
from gateway.scoring.messages import scoring_path
from gateway.telemetry import logs


def main() -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    settings = process_settings.decode(os.environ[process_settings.ENVIRONMENT_VARIABLE])
    logs.configure(format=settings.log_format, level=settings.log_level, process="scoring")
    # Matrices this small are slower on many threads, and the workers need the cores. Numpy reads this once, when it is first imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from gateway.scoring.detectors import Detectors
    from gateway.scoring.process import serve

    try:
        asyncio.run(serve(scoring_path(settings.state_dir), Detectors()))
    except LinkError as error:
        logging.getLogger(__name__).critical("cannot start: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
