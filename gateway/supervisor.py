"""`headgate serve`: opens the listening sockets and hands them to the processes, which inherit them. A connection that is queued
on a socket thus outlives any one worker. It serves no request itself.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping

import msgspec

from gateway import settings as process_settings
from gateway.child import ProcessSpec
from gateway.errors import HeadgateError
from gateway.processes import Supervisor
from gateway.settings import Settings

BACKLOG = 2048


class StartError(HeadgateError):
    """The gateway cannot start here; the message says why in one line."""


def listen(host: str, port: int, flag: str) -> socket.socket:
    """A listening TCP socket; `flag` names the option to change in the error."""
    where = f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartError(f"cannot listen on {where}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise StartError(f"cannot listen on {where}: {error.strerror or error}; choose another with {flag}") from error
    return listener


def lock_state_dir(path: str) -> int:
    """Make the folder and lock it, so that two gateways never share one; the lock lasts as long as the descriptor returned."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        lock = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"cannot use the state folder {path}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
        os.close(lock)
        raise StartError(
            f"the state folder {path} is in use by another gateway (process {holder or 'unknown'}); choose another with --state-dir"
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def gateway_specs(settings: Settings, sockets: Mapping[str, socket.socket], *, lock: int) -> tuple[list[ProcessSpec], list[ProcessSpec]]:
    """The controller and the workers, and what is started once a policy needs it: the engine of the embedded models, and the
    scoring process. The controller holds the lock of the state folder, too: should the supervisor be killed, nobody
    takes the folder before the controller has flushed."""
    environment = {process_settings.ENVIRONMENT_VARIABLE: process_settings.encode(settings)}
    fds = {name: each.fileno() for name, each in sockets.items()}

    def python(module: str, *arguments: str) -> tuple[str, ...]:
        return (sys.executable, "-P", "-m", module, *arguments)

    controller = ProcessSpec(
        "controller",
        "controller",
        python("gateway.controller", "--admin-fd", str(fds["admin"]), "--metrics-fd", str(fds["metrics"])),
        (fds["admin"], fds["metrics"], lock),
        environment,
    )
    workers = [
        ProcessSpec(
            f"worker-{index}",
            "worker",
            python("gateway.worker", "--index", str(index), "--data-fd", str(fds["data"])),
            (fds["data"],),
            environment,
            drains_first=True,
        )
        for index in range(settings.workers)
    ]
    embedded = ProcessSpec(
        "embedded", "embedded", python("gateway.embedded", "--fd", str(fds["embedded"])), (fds["embedded"],), tethered=False
    )
    scoring = ProcessSpec("scoring", "scoring", python("gateway.scoring"), (), environment, tethered=False)
    return [controller, *workers], [embedded, scoring]


def nothing_more(settings: Settings) -> Iterable[ProcessSpec]:
    """Only the gateway is run."""
    return ()


def serve(
    settings: Settings, *, on_ready: Callable[[Settings], None], also: Callable[[Settings], Iterable[ProcessSpec]] = nothing_more
) -> int:
    """Run a gateway until it is told to stop, and what `also` names beside it; both callbacks are given the ports that it got.
    Raises StartError where it cannot start."""
    lock = lock_state_dir(settings.state_dir)
    sockets: dict[str, socket.socket] = {}
    try:
        for name, host, port in (
            ("data", settings.host, settings.port),
            ("admin", settings.admin_host, settings.admin_port),
            ("metrics", settings.metrics_host, settings.metrics_port),
            ("embedded", "127.0.0.1", 0),
        ):
            sockets[name] = listen(host, port, "--port" if name == "data" else f"--{name}-port")
        settings = msgspec.structs.replace(
            settings,
            port=sockets["data"].getsockname()[1],
            admin_port=sockets["admin"].getsockname()[1],
            metrics_port=sockets["metrics"].getsockname()[1],
            embedded_port=sockets["embedded"].getsockname()[1],
            run=os.urandom(8).hex(),
        )
        specs, engines = gateway_specs(settings, sockets, lock=lock)
        return Supervisor(
            [*specs, *also(settings)],
            engines={spec.name: spec for spec in engines},
            listeners=[sockets["data"]],
            drain_s=settings.drain_s,
            on_ready=lambda: on_ready(settings),
        ).run()
    finally:
        for each in sockets.values():
            each.close()
        os.close(lock)
