"""Each fault: how the site is set up for it, what one injection does, and what clients may see of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec

from loadtests.chaos.site import Setup, Site
from tests.e2e.gateway import eventually

Inject: TypeAlias = Callable[[Site, random.Random], Awaitable[str]]
"""Does it once, and says what it did."""
TMPFS = "12m"
CROWD = 24
"""All clients at once."""
CROSSED = 1
"""Who connects at the very moment when the listening socket ends, with a handshake still under way, cannot be taken in."""
AHEAD_S = 33.0
"""The controller prunes its records every 30 s."""
REPLACED_S = 50.0
CLOCK_STEPS_S = (3600.0, -3600.0, 86_400.0 * 400, -86_400.0 * 400, 0.5, -0.5, 0.0)


class CannotInjectError(Exception):
    """This machine, or this user, cannot have that fault."""


class Fault(msgspec.Struct, frozen=True):
    """One kind of fault."""

    name: str
    about: str
    setup: Setup
    inject: Inject | None = None
    """None: the backend does it, by seed."""
    injections: int = 8
    """At least so many in a full run."""
    pause_s: tuple[float, float] = (0.1, 0.4)
    """Between two injections."""
    may_lose: bool = False
    """Clients of a process that is killed lose their connection."""
    may_turn_away: int = 0
    """So many requests for each injection may find that their connection was closed: not a byte comes back, and no backend is asked."""
    may_miss_records: bool = False
    """Not every exchange can be on record; what was acknowledged is."""
    prepare: Callable[[Path, Setup], contextlib.AbstractContextManager[Setup]] | None = None
    """What the site needs around it, given its folder."""


async def kill_backend(site: Site, chance: random.Random) -> str:
    await site.backends[0].kill()
    await asyncio.sleep(chance.uniform(0.0, 0.3))
    await site.backends[0].start()
    return "a backend killed and started again"


async def hang_backend(site: Site, chance: random.Random) -> str:
    """It keeps its connections and takes new ones into its queue, but says nothing."""
    site.backends[0].signal(signal.SIGSTOP)
    await asyncio.sleep(chance.uniform(0.2, 2.0))
    site.backends[0].signal(signal.SIGCONT)
    return "a backend stopped and continued"


def killing(role: str) -> Inject:
    """kill -9 of one process of the gateway; the supervisor starts another."""

    async def inject(site: Site, chance: random.Random) -> str:
        assert site.gateway is not None
        with contextlib.suppress(Exception):  # the controller may be the one that is away
            await site.acknowledge()
        pids = site.gateway.pids(role)
        if pids:
            os.kill(chance.choice(pids), signal.SIGKILL)
            await site.gateway.wait_pids(role, other_than=pids)
        return f"a {role} killed" if pids else f"no {role} there to kill"

    return inject


async def kill_supervisor(site: Site, chance: random.Random) -> str:
    """Workers and controller see it, drain and end; then another gateway starts on the same port and state folder."""
    assert site.gateway is not None
    await site.acknowledge()
    site.gateway.process.kill()
    await site.gateway.gone()
    await site.start_gateway()
    return "the supervisor killed, another gateway started"


async def terminate(site: Site, chance: random.Random) -> str:
    assert site.gateway is not None
    await site.acknowledge()
    site.gateway.process.send_signal(signal.SIGTERM)
    code = await site.gateway.gone()
    await site.start_gateway()
    return f"SIGTERM, exit code {code}, another gateway started"


async def replace_workers(site: Site, chance: random.Random) -> str:
    """No fault, but what is done to a gateway that serves on."""
    assert site.gateway is not None
    before = site.gateway.pids("worker")
    site.gateway.process.send_signal(signal.SIGUSR2)

    async def replaced() -> bool:
        assert site.gateway is not None
        now = site.gateway.pids("worker")
        return len(now) == len(before) and not set(now) & set(before)

    await eventually(replaced, REPLACED_S)
    return f"{len(before)} workers replaced"


@contextlib.contextmanager
def on_small_disk(folder: Path, setup: Setup) -> Iterator[Setup]:
    """The state folder on a small tmpfs where we may mount one; else the size of the controller's files is limited later."""
    state = folder / "state"
    state.mkdir(mode=0o700)
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS},mode=700", "none", str(state)], capture_output=True).returncode == 0
    )
    try:
        yield msgspec.structs.replace(setup, tmpfs=mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(state)], check=True)


async def fill_disk(site: Site, chance: random.Random) -> str:
    """No byte more under SQLite, for a while."""
    assert site.gateway is not None
    await site.acknowledge()
    filler = site.state / "filler"
    if site.setup.tmpfs:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(b"\0" * 4096):
                pass
        await asyncio.sleep(chance.uniform(0.3, 0.8))
        filler.unlink()
        return "tmpfs full, then room again"
    (controller,) = site.gateway.pids("controller")
    _, hard = resource.prlimit(controller, resource.RLIMIT_FSIZE)
    resource.prlimit(controller, resource.RLIMIT_FSIZE, (4096, hard))
    await asyncio.sleep(chance.uniform(0.3, 0.8))
    resource.prlimit(controller, resource.RLIMIT_FSIZE, (hard, hard))
    return "file size limited, then not"


@contextlib.contextmanager
def with_own_names(folder: Path, setup: Setup) -> Iterator[Setup]:
    """The gateway in a mount namespace of its own, where the only names are those of a file of ours."""
    hosts, nobody, switch = folder / "hosts", folder / "resolv.conf", folder / "nsswitch.conf"
    hosts.write_text(all_names())
    nobody.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    switch.write_text("hosts: files\n")
    script = f"mount --bind {hosts} /etc/hosts && mount --bind {nobody} /etc/resolv.conf && mount --bind {switch} /etc/nsswitch.conf"
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*own, "sh", "-c", script], capture_output=True).returncode:
        raise CannotInjectError("no mount namespace can be had here, so names cannot be taken away from one process alone")
    yield msgspec.structs.replace(setup, prefix=(*own, "sh", "-c", f'{script} && exec "$@"', "sh"))


def all_names() -> str:
    return "127.0.0.1 localhost\n127.0.0.1 first.example\n127.0.0.1 second.example\n"


async def forget_names(site: Site, chance: random.Random) -> str:
    """One name, or both, do not resolve for a while. The file is written in place: it is what is mounted."""
    hosts = site.folder / "hosts"
    gone = chance.choice(("first", "second", "example"))
    hosts.write_text("".join(line for line in all_names().splitlines(keepends=True) if gone not in line))
    await asyncio.sleep(chance.uniform(0.1, 0.5))
    hosts.write_text(all_names())
    return f"{gone if gone != 'example' else 'both names'} gone, then back"


@contextlib.contextmanager
def with_own_clock(folder: Path, setup: Setup) -> Iterator[Setup]:
    """`time.time` of the gateway's processes is off by what a file says."""
    (folder / "clock").write_bytes(struct.pack("d", 0.0))
    yield msgspec.structs.replace(setup, environment={**setup.environment, "HEADGATE_CHAOS_CLOCK": str(folder / "clock")})


async def step_clock(site: Site, chance: random.Random) -> str:
    with (site.folder / "clock").open("r+b", buffering=0) as file:
        (now,) = struct.unpack("d", file.read(8))
        step = chance.choice([each for each in CLOCK_STEPS_S if each != now])
        file.seek(0)
        file.write(struct.pack("d", step))
    await asyncio.sleep(0.05)
    return f"the clock {step:+,g} s off"


async def hold_clock_ahead(site: Site, chance: random.Random) -> str:
    """Longer than it takes until records are pruned again."""
    await asyncio.sleep(1.0)
    await site.acknowledge()
    clock = site.folder / "clock"
    with clock.open("r+b", buffering=0) as file:
        file.write(struct.pack("d", max(CLOCK_STEPS_S)))
    await asyncio.sleep(AHEAD_S)
    with clock.open("r+b", buffering=0) as file:
        file.write(struct.pack("d", 0.0))
    return f"the clock {max(CLOCK_STEPS_S):+,g} s off for {AHEAD_S:g} s, then right"


FAULTS = (
    Fault("nothing", "no fault, for comparison", Setup()),
    Fault("kill-backend", "kill -9 of a backend, then it is started again", Setup(), kill_backend),
    Fault("hang-backend", "a backend is stopped for 0.2-2 s and goes on", Setup(), hang_backend),
    Fault("slow", "a tenth of answers pauses for up to 2 s; the gateway waits 1 s", Setup(fault="slow", share=0.1, both_backends=True)),
    Fault("refuse", "a fifth of calls is refused with 429 or 503", Setup(fault="refuse", share=0.2, both_backends=True)),
    Fault("truncate", "a fifth of answers ends early, in good order", Setup(fault="truncate", share=0.2, both_backends=True)),
    Fault("reset", "a fifth of answers is cut by a reset", Setup(fault="reset", share=0.2, both_backends=True)),
    Fault("garbage", "random bytes in a fifth of answers", Setup(fault="garbage", share=0.2, both_backends=True)),
    Fault("disk-full", "no room under SQLite for 0.3-0.8 s", Setup(content=True), fill_disk, may_miss_records=True, prepare=on_small_disk),
    Fault(
        "kill-worker",
        "kill -9 of one of two workers",
        Setup(workers=2),
        killing("worker"),
        may_lose=True,
        may_turn_away=CROWD,
        may_miss_records=True,
    ),
    Fault("kill-controller", "kill -9 of the controller", Setup(), killing("controller"), injections=4, pause_s=(0.3, 0.8)),
    Fault(
        "kill-supervisor",
        "kill -9 of the supervisor, then a new gateway on its state",
        Setup(),
        kill_supervisor,
        injections=3,
        may_turn_away=CROSSED,
    ),
    Fault(
        "sigterm", "SIGTERM under load, then a new gateway on its state", Setup(workers=2), terminate, injections=3, may_turn_away=CROSSED
    ),
    Fault("replace-workers", "both workers are replaced under load", Setup(workers=2), replace_workers, injections=4),
    Fault(
        "names",
        "host names stop resolving for 0.1-0.5 s; every call needs a new connection",
        Setup(fault="close", names=("first.example", "second.example")),
        forget_names,
        prepare=with_own_names,
    ),
    Fault(
        "clock",
        "the clock of every process steps by up to 400 days, for less than a round of pruning",
        Setup(),
        step_clock,
        injections=20,
        prepare=with_own_clock,
    ),
    Fault(
        "clock-ahead",
        "the clock is 400 days ahead while records are pruned, then right",
        Setup(),
        hold_clock_ahead,
        injections=1,
        prepare=with_own_clock,
    ),
)
BY_NAME = {fault.name: fault for fault in FAULTS}


@contextlib.asynccontextmanager
async def injecting(fault: Fault, site: Site, chance: random.Random, told: list[str]) -> AsyncIterator[None]:
    """Inject again and again while the body runs; what was done is told in `told`. What goes wrong in it is raised at the end."""

    async def go_on() -> None:
        while fault.inject is not None:
            await asyncio.sleep(chance.uniform(*fault.pause_s))
            if over.is_set():
                return
            told.append(await fault.inject(site, chance))

    over = asyncio.Event()
    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        over.set()
        await asyncio.wait_for(task, 60)
