"""Keeps processes alive: starts them, starts again whichever dies, stops them in order. It knows nothing of what they do, so
that what runs the workers and the embedded models can also run a local vLLM.

A tethered child inherits one end of a socket pair (`--supervisor-fd`). On it the child writes JSON lines (`{"ready": true}`;
the controller also `{"engines": ["embedded"]}` and `{"drain_s": 30}`), and reads end-of-file when the supervisor is gone, however
it went: then it drains and exits, so that not even `kill -9` of the supervisor leaves a process that holds the port. The
controller is told `{"restarts": {"worker": 1}}` on it.

SIGUSR2 has those that drain replaced, one after another (`gateway.rolling`).
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping

from gateway.child import Child, ProcessSpec
from gateway.rolling import Rolling

log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 10.0
STABLE_S = 30.0
"""A process that lived so long and dies is started again as if it were its first time."""
START_FAILURES_MAX = 5
"""Deaths of one process in a row after which a gateway that was never ready gives up, so that a start that fails, fails."""
DRAIN_GRACE_S = 10.0
"""What a worker is given beyond `server.drain` before it is killed: enough for its last words and its records."""
DRAIN_MAX_S = 3600.0
END_S = 20.0
"""What the controller and the engines are given to flush and exit."""
KILLED = 130
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)


class Supervisor:
    """Keeps processes alive until a signal, or the end of a `stop_all` process, stops them."""

    def __init__(
        self,
        specs: Iterable[ProcessSpec],
        *,
        engines: Mapping[str, ProcessSpec] | None = None,
        listeners: Iterable[socket.socket] = (),
        drain_s: float = 30.0,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._children = [Child(spec) for spec in specs]
        self._engines = dict(engines or {})
        self._listeners = list(listeners)
        self._drain_s = drain_s
        self._on_ready = on_ready
        self._was_ready = False
        self._restarts: dict[str, int] = {}
        self._selector = selectors.DefaultSelector()
        self._stopping: tuple[bool, float] | None = None
        """(only those that drain first, when to kill)."""
        self._interrupts = 0
        self._terminal = has_terminal()
        self._exit_code = 0
        self._rolling = Rolling(self._children, self._start)

    def run(self) -> int:
        """Block until all is stopped; the exit code is 0, 1 (gave up, or had to kill), 130 (killed by a second Ctrl-C) or that
        of a `stop_all` process. Must run in the main thread, since it takes the signals."""
        wake_read, wake_write = socket.socketpair()
        for side in (wake_read, wake_write):
            side.setblocking(False)
        self._selector.register(wake_read, selectors.EVENT_READ, lambda: self._signalled(wake_read.recv(256)))
        handlers = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        wakeup = signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        try:
            while not self._finished():
                self._start_due()
                for key, _ in self._selector.select(self._wait_s()):
                    key.data()
                self._reap()
                if self._stopping is None:
                    self._rolling.advance(min(self._drain_s, DRAIN_MAX_S) + DRAIN_GRACE_S)
                self._advance_stop()
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in handlers.items():
                # Who has pressed Ctrl-C twice may press it once more: that must not change how the command ends.
                impatient = number == signal.SIGINT and self._interrupts > 1
                signal.signal(number, signal.SIG_IGN if impatient else handler)
            for child in self._children:
                child.signal(signal.SIGKILL)
            self._selector.close()
            wake_read.close()
            wake_write.close()
        return self._exit_code

    def _signalled(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGHUP and self._terminal and not has_terminal():
                log.warning("the terminal is gone: stopping")
                self._stop()
            elif number == signal.SIGHUP:
                self._of_role("controller", lambda child: child.signal(signal.SIGHUP))
            elif number == signal.SIGUSR2:
                self._replace_workers()
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._interrupts += number == signal.SIGINT
                if self._interrupts > 1:
                    log.warning("interrupted twice: killing everything")
                    self._exit_code = KILLED
                    for child in self._alive():
                        child.signal(signal.SIGKILL)
                self._stop()

    def _replace_workers(self) -> None:
        if self._stopping is not None or not self._was_ready:
            log.warning("workers are not replaced now: the gateway is %s", "stopping" if self._stopping else "not ready yet")
        else:
            self._rolling.begin([child for child in self._children if child.spec.drains_first and not child.leaving])

    def _of_role(self, role: str, act: Callable[[Child], None]) -> None:
        for child in self._children:
            if child.spec.role == role:
                act(child)

    def _alive(self) -> list[Child]:
        return [child for child in self._children if child.process is not None]

    # Starting, and starting again

    def _start_due(self) -> None:
        if self._stopping is not None:
            return
        for child in self._children:
            if child.process is None and child.start_at <= time.monotonic() and not self._start(child):
                self._schedule(child)

    def _start(self, child: Child) -> bool:
        try:
            child.start()
        except OSError as error:
            log.error("cannot start %s: %s", child.spec.name, error)
            return False
        assert child.channel is not None
        self._selector.register(child.channel, selectors.EVENT_READ, lambda: self._heard(child))
        if child.spec.role == "controller":
            child.say({"restarts": self._restarts})
        return True

    def _wait_s(self) -> float | None:
        due = [self._stopping[1]] if self._stopping else [child.start_at for child in self._children if child.process is None]
        if self._stopping is None and self._rolling.until is not None:
            due.append(self._rolling.until)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _reap(self) -> None:
        for child in self._alive():
            assert child.process is not None
            code = child.process.poll()
            if code is None:
                continue
            self._hang_up(child)
            if not child.spec.tethered:
                child.signal(signal.SIGKILL)  # should gateway.foreign have died before its program
            child.process, child.ready = None, False
            if self._stopping is not None:
                log.debug("%s exited (%s)", child.spec.name, describe_exit(code))
            elif child.spec.on_exit == "stop_all":
                self._exit_code = code if code >= 0 else 1
                self._stop()
            elif child.spec.on_exit == "leave":
                self._children.remove(child)
            elif child.leaving:
                log.info("%s exited (%s)", child.spec.name, describe_exit(code))
                self._children.remove(child)
            else:
                self._died(child, code)

    def _hang_up(self, child: Child) -> None:
        if child.channel is not None:
            self._selector.unregister(child.channel)
            child.channel.close()
            child.channel = None

    def _died(self, child: Child, code: int) -> None:
        if time.monotonic() - child.started >= STABLE_S:
            child.failures = 0
        self._restarts[child.spec.role] = self._restarts.get(child.spec.role, 0) + 1
        log.error("%s died (%s)", child.spec.name, describe_exit(code))
        self._schedule(child)
        self._of_role("controller", lambda controller: controller.say({"restarts": self._restarts}))

    def _schedule(self, child: Child) -> None:
        child.failures += 1
        delay = backoff_s(child.failures)
        child.start_at = time.monotonic() + delay
        if not self._was_ready and child.failures >= START_FAILURES_MAX:
            log.error("%s has failed %d times and the gateway was never ready: giving up", child.spec.name, child.failures)
            self._exit_code = 1
            self._stop()
        elif child.failures > 1:
            log.error("%s has died %d times in a row; next start in %.1f s", child.spec.name, child.failures, delay)

    # What the children report

    def _heard(self, child: Child) -> None:
        try:
            reports = child.reports()
        except EOFError:
            self._hang_up(child)  # its exit is seen by SIGCHLD
            return
        for report in reports:
            if report.get("ready"):
                child.ready = True
            for engine in _names(report.get("engines")):
                self._want_engine(engine)
            if isinstance(drain := report.get("drain_s"), (int, float)):
                self._drain_s = float(drain)
        if not self._was_ready and all(each.ready for each in self._children if each.spec.tethered):
            self._was_ready = True
            self._on_ready()

    def _want_engine(self, name: str) -> None:
        """Start an engine that a policy needs. It is kept to the end: exchanges of a retired policy may still be using it."""
        if name not in self._engines:
            log.error("the controller asked for an engine that is not known: %r", name)
        elif not any(child.spec.name == name for child in self._children):
            self._children.append(Child(self._engines[name]))

    # Stopping

    def _stop(self) -> None:
        """Begin to stop: no new connections, those that drain first are asked to."""
        if self._stopping is not None:
            return
        for listener in self._listeners:
            listener.close()
        self._enter(drains_first=True, limit_s=min(self._drain_s, DRAIN_MAX_S) + DRAIN_GRACE_S)

    def _enter(self, *, drains_first: bool, limit_s: float) -> None:
        self._stopping = (drains_first, time.monotonic() + limit_s)
        for child in self._in_phase():
            child.signal(signal.SIGTERM)

    def _in_phase(self) -> list[Child]:
        return [child for child in self._alive() if self._stopping and (child.spec.drains_first or not self._stopping[0])]

    def _advance_stop(self) -> None:
        if self._stopping is None:
            return
        drains_first, kill_at = self._stopping
        if time.monotonic() >= kill_at:
            for child in self._in_phase():
                log.error("%s did not stop in time: killing it", child.spec.name)
                child.signal(signal.SIGKILL)
                self._exit_code = self._exit_code or 1
            self._stopping = (drains_first, time.monotonic() + 1.0)
        if drains_first and not self._in_phase():
            self._enter(drains_first=False, limit_s=END_S)

    def _finished(self) -> bool:
        return self._stopping is not None and not self._alive()


def has_terminal() -> bool:
    """Whether there is a controlling terminal: one that goes away sends the signal that otherwise means "reload"."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def backoff_s(failures: int) -> float:
    """Wait before the next start of a process that has died `failures` times in a row."""
    return min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 16))


def describe_exit(code: int) -> str:
    """`exit code 1`, `killed by SIGKILL`."""
    names = {number.value: number.name for number in signal.Signals}
    return f"exit code {code}" if code >= 0 else f"killed by {names.get(-code, f'signal {-code}')}"


def _names(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
