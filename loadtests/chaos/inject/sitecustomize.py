"""Loaded by Python at the start of every process of a gateway under test, because its folder is on PYTHONPATH.

`HEADGATE_CHAOS_CLOCK` names a file of eight bytes: a double, the seconds that `time.time` is off by; whoever writes there steps the
clock of every process. `HEADGATE_CHAOS_TASKS` names a folder: on SIGUSR2 a process writes `PID` there, how many asyncio tasks and
objects it has.
"""

import os
import struct
import time


def _step_clock(path: str) -> None:
    import mmap

    with open(path, "rb") as file:
        cell = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    real = time.time
    unpack = struct.Struct("d").unpack_from
    time.time = lambda: real() + unpack(cell)[0]


def _count_tasks(folder: str) -> None:
    import asyncio
    import gc
    import signal

    def count(*_: object) -> None:
        try:
            tasks = len(asyncio.all_tasks(asyncio.get_running_loop()))
        except RuntimeError:
            tasks = -1
        draft = os.path.join(folder, f".{os.getpid()}")
        with open(draft, "w") as file:
            file.write(f"{tasks} {len(gc.get_objects())}")
        os.rename(draft, os.path.join(folder, str(os.getpid())))

    signal.signal(signal.SIGUSR2, count)


if "HEADGATE_CHAOS_CLOCK" in os.environ:
    _step_clock(os.environ["HEADGATE_CHAOS_CLOCK"])
if "HEADGATE_CHAOS_TASKS" in os.environ:
    _count_tasks(os.environ["HEADGATE_CHAOS_TASKS"])
