"""The supervisor, run for real in a process of its own over small children that say on stdout what happens to them."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.child import ProcessSpec
from gateway.processes import BACKOFF_MAX_S, Supervisor, backoff_s, describe_exit
from gateway.settings import Settings
from gateway.supervisor import StartError, gateway_specs, listen, lock_state_dir

DRIVER = textwrap.dedent("""
    import json, logging, sys
    from gateway import rolling
    from gateway.child import ProcessSpec
    from gateway.processes import Supervisor
    logging.basicConfig(stream=sys.stdout, format="log %(message)s")
    told = json.loads(sys.argv[1])
    rolling.READY_WITHIN_S = told.get("ready_within_s", 60.0)
    specs = [ProcessSpec(**{**spec, "argv": tuple(spec["argv"])}) for spec in told["specs"]]
    engines = {spec["name"]: ProcessSpec(**{**spec, "argv": tuple(spec["argv"])}) for spec in told.get("engines", [])}
    supervisor = Supervisor(specs, engines=engines, drain_s=told.get("drain_s", 5.0), on_ready=lambda: print("all ready", flush=True))
    print("supervisor up", flush=True)
    sys.exit(supervisor.run())
""")

CHILD = textwrap.dedent("""
    import json, os, signal, sys
    name, behaviour = sys.argv[1:3]
    def say(text):
        os.write(1, f"{name} {text}\\n".encode())
    def leave(*_):
        say("drains")
        os._exit(0)
    if "deaf" in behaviour:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, lambda *_: say("reloads"))
    if "fails when told" in behaviour:
        signal.signal(signal.SIGHUP, lambda *_: os._exit(3))
        say(f"up {os.getpid()}")
        while True:
            signal.pause()
    if "fails" in behaviour and "once" not in behaviour:
        sys.exit(3)
    if "--supervisor-fd" not in sys.argv:
        say(f"up {os.getpid()}")
        while True:
            signal.pause()
    fd = int(sys.argv[sys.argv.index("--supervisor-fd") + 1])
    say(f"up {os.getpid()}")
    if "once" in behaviour and os.path.exists(behaviour.split()[-1]):
        if "fails" in behaviour:
            sys.exit(3)
        signal.pause()
    if "once" in behaviour:
        open(behaviour.split()[-1], "w").close()
    os.write(fd, b'{"ready": true}\\n')
    if "engine" in behaviour:
        os.write(fd, b'nonsense\\n{"engines": ["embedded", "unheard-of"]}\\n')
    heard = b""
    while data := os.read(fd, 4096):
        heard += data
        while b"\\n" in heard:
            line, _, heard = heard.partition(b"\\n")
            say(f"heard {line.decode()}")
    say("was left alone")
""")


def child(name: str, behaviour: str = "", **more: Any) -> dict[str, Any]:
    return {"name": name, "role": name.split("-")[0], "argv": [sys.executable, "-c", CHILD, name, behaviour], **more}


class Running:
    def __init__(self, *specs: dict[str, Any], **told: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, json.dumps({"specs": specs, **told})], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.lines: list[str] = []
        self.expect("supervisor up")

    def expect(self, text: str) -> str:
        """The next line that begins with `text`, looked for among those already read first."""
        for index, line in enumerate(self.lines):
            if line.startswith(text):
                return self.lines.pop(index)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(text):
                return line.strip()
            self.lines.append(line.strip())
        raise AssertionError(f"ended without {text!r}: {self.lines}")

    def pid(self, name: str) -> int:
        return int(self.expect(f"{name} up").split()[-1])

    def rest(self) -> list[str]:
        assert self.process.stdout is not None
        return self.lines + [line.strip() for line in self.process.stdout]


@pytest.fixture
def run() -> Iterator[Any]:
    started: list[Running] = []

    def begin(*specs: dict[str, Any], **told: Any) -> Running:
        started.append(Running(*specs, **told))
        return started[-1]

    yield begin
    for each in started:
        if each.process.poll() is None:
            each.process.send_signal(signal.SIGTERM)
            try:
                each.process.wait(10)
            except subprocess.TimeoutExpired:
                each.process.kill()
        assert each.process.stdout is not None
        each.process.stdout.close()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_drain_before_the_rest_is_stopped(run: Any) -> None:
    gateway = run(child("controller"), child("worker-0", drains_first=True), child("worker-1", drains_first=True))
    gateway.expect("all ready")
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(10) == 0
    order = [line for line in gateway.rest() if "drains" in line]
    assert order[-1] == "controller drains"
    assert sorted(order[:2]) == ["worker-0 drains", "worker-1 drains"]


def test_whoever_dies_is_started_again_and_the_controller_is_told(run: Any) -> None:
    gateway = run(child("controller"), child("worker-0"))
    assert gateway.expect("controller heard") == 'controller heard {"restarts": {}}'
    first = gateway.pid("worker-0")
    os.kill(first, signal.SIGKILL)
    assert gateway.expect("log worker-0 died") == "log worker-0 died (killed by SIGKILL)"
    second = gateway.pid("worker-0")
    assert second != first
    assert gateway.expect("controller heard") == 'controller heard {"restarts": {"worker": 1}}'
    os.kill(gateway.pid("controller"), signal.SIGKILL)
    assert gateway.expect("controller heard") == 'controller heard {"restarts": {"worker": 1, "controller": 1}}'


def test_a_crash_loop_backs_off_and_is_visible(run: Any) -> None:
    gateway = run(child("controller"), child("worker-0"))
    gateway.expect("all ready")
    for _ in range(3):
        os.kill(gateway.pid("worker-0"), signal.SIGKILL)
    assert gateway.expect("log worker-0 has died 2 times in a row; next start in 0.2 s")
    assert gateway.expect("log worker-0 has died 3 times in a row; next start in 0.4 s")


def test_a_start_that_always_fails_fails(run: Any) -> None:
    gateway = run(child("controller", "fails"), child("worker-0"))
    assert gateway.process.wait(20) == 1
    assert "log controller has failed 5 times and the gateway was never ready: giving up" in gateway.rest()


def test_a_program_that_is_not_there_is_an_error_not_a_crash(run: Any) -> None:
    gateway = run({"name": "worker-0", "role": "worker", "argv": ["/nonexistent/program"]})
    assert gateway.process.wait(20) == 1
    assert any(line.startswith("log cannot start worker-0") for line in gateway.rest())


def test_workers_are_replaced_one_after_another(run: Any) -> None:
    gateway = run(child("controller"), *(child(f"worker-{number}", drains_first=True) for number in (0, 1)))
    gateway.expect("all ready")
    old = [gateway.pid("worker-0"), gateway.pid("worker-1")]
    gateway.lines.clear()
    gateway.process.send_signal(signal.SIGUSR2)
    gateway.expect("worker-1 drains")
    workers = [line.split()[:2] for line in gateway.lines if line.startswith("worker")]
    assert workers == [["worker-0", "up"], ["worker-0", "drains"], ["worker-1", "up"]]
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(10) == 0
    assert not any(map(alive, old))
    rest = gateway.rest()
    assert [line for line in rest if "drains" in line][-1] == "controller drains"
    assert not [line for line in rest if "died" in line or '"worker"' in line], "nobody died"


@pytest.mark.parametrize("how", ["fails", "is never ready"])
def test_a_successor_that_does_not_come_up_leaves_who_serves(run: Any, tmp_path: Path, how: str) -> None:
    gateway = run(child("controller"), child("worker-0", f"{how}, but once not {tmp_path}/once", drains_first=True), ready_within_s=1.0)
    gateway.expect("all ready")
    first = gateway.pid("worker-0")
    gateway.process.send_signal(signal.SIGUSR2)
    second = gateway.pid("worker-0")
    gateway.expect("log the new worker-0 is not ready: workers are not replaced")
    gateway.process.send_signal(signal.SIGUSR2)  # it may be tried again
    assert gateway.pid("worker-0") != second
    assert alive(first)
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(10) == 0
    assert "worker-0 drains" in gateway.rest()


def test_who_does_not_make_room_for_its_successor_is_killed(run: Any) -> None:
    gateway = run(child("worker-0", "deaf", drains_first=True), child("worker-1", drains_first=True), drain_s=-9.9)
    gateway.expect("all ready")
    first = gateway.pid("worker-0")
    gateway.process.send_signal(signal.SIGUSR2)
    gateway.expect("log worker-0 did not stop in time: killing it")
    gateway.expect("worker-1 drains")  # whose turn comes after
    assert not alive(first)


def test_stopping_ends_the_replacing(run: Any) -> None:
    gateway = run(child("controller"), *(child(f"worker-{number}", drains_first=True) for number in range(4)))
    gateway.expect("all ready")
    gateway.process.send_signal(signal.SIGUSR2)
    gateway.expect("worker-0 drains")
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(10) == 0
    assert len([line for line in gateway.rest() if line.startswith("worker-3 up")]) == 1


def test_before_it_is_ready_nothing_is_replaced(run: Any) -> None:
    gateway = run(child("controller"), child("worker-0", "fails", drains_first=True))
    gateway.expect("log worker-0 died")
    gateway.process.send_signal(signal.SIGUSR2)
    gateway.expect("log workers are not replaced now: the gateway is not ready yet")


def test_hangup_goes_to_the_controller(run: Any) -> None:
    gateway = run(child("controller"), child("worker-0"))
    gateway.expect("all ready")
    gateway.process.send_signal(signal.SIGHUP)
    assert gateway.expect("controller reloads")


def test_a_terminal_that_goes_away_stops_everything(tmp_path: Path) -> None:
    told = json.dumps({"specs": [child("controller"), child("worker-0", drains_first=True)]})
    log = tmp_path / "log"
    pid, terminal = pty.fork()
    if pid == 0:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT, 0o600), 1)
        os.execv(sys.executable, [sys.executable, "-c", DRIVER, told])
    while not log.exists() or "all ready" not in log.read_text():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        time.sleep(0.02)
    os.kill(pid, signal.SIGHUP)
    while "controller reloads" not in log.read_text():
        time.sleep(0.02)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert "worker-0 drains" in log.read_text()
    assert "the terminal is gone" in log.read_text()


def test_engines_start_when_the_controller_asks(run: Any) -> None:
    gateway = run(child("controller", "engine"), engines=[child("embedded", tethered=False)])
    assert gateway.pid("embedded")
    assert gateway.expect("log controller said something that is no report: b'nonsense'")
    assert gateway.expect("log the controller asked for an engine that is not known: 'unheard-of'")


def test_who_does_not_drain_in_time_is_killed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = run(child("worker-0", "deaf", drains_first=True), drain_s=-9.9)
    gateway.expect("all ready")
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(10) == 1
    assert "log worker-0 did not stop in time: killing it" in gateway.rest()


def test_a_second_interrupt_kills_at_once(run: Any) -> None:
    gateway = run(child("worker-0", "deaf", drains_first=True), drain_s=600)
    gateway.expect("all ready")
    pid = gateway.pid("worker-0")
    while gateway.process.poll() is None:  # two signals that are pending together are one to the kernel; and who is impatient goes on
        gateway.process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    assert gateway.process.returncode == 130
    assert not alive(pid)


def test_children_do_not_outlive_a_killed_supervisor(run: Any) -> None:
    gateway = run(child("controller"), child("worker-0"))
    gateway.expect("all ready")
    gateway.process.kill()
    assert {gateway.expect("controller was left"), gateway.expect("worker-0 was left")}


def test_a_foreign_program_is_stopped_started_again_and_ended_like_the_others(run: Any) -> None:
    gateway = run(child("worker-0"), child("engine", tethered=False))
    first = gateway.pid("engine")
    os.kill(first, signal.SIGKILL)
    assert gateway.expect("log engine died") == "log engine died (exit code 137)"
    assert gateway.pid("engine") != first
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(10) == 0
    assert "engine drains" in gateway.rest()


def test_a_foreign_program_does_not_outlive_a_killed_supervisor(run: Any) -> None:
    gateway = run(child("engine", tethered=False))
    gateway.expect("engine up")
    gateway.process.kill()
    assert gateway.expect("engine drains")


def test_a_foreign_program_inherits_its_socket_and_not_the_tether() -> None:
    program = "import json, os, sys; json.dump([int(fd) for fd in os.listdir('/proc/self/fd') if int(fd) > 2], sys.stdout)"
    with listen("127.0.0.1", 0, "--port") as held:
        spec = {"name": "e", "role": "e", "argv": (sys.executable, "-c", program), "fds": (held.fileno(),), "tethered": False}
        script = f"import sys; from gateway.processes import *; sys.exit(Supervisor([ProcessSpec(**{spec!r}, on_exit='stop_all')]).run())"
        done = subprocess.run(
            [sys.executable, "-c", script], pass_fds=(held.fileno(),), capture_output=True, text=True, timeout=30, check=True
        )
        inherited = json.loads(done.stdout)
        assert held.fileno() in inherited
        assert len(inherited) == 2, "the socket, and the folder that is being listed"


def test_a_foreign_program_that_is_not_there() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway.foreign", "0", "/nonexistent/program"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 127
    assert done.stderr == "cannot start /nonexistent/program: No such file or directory\n"


def test_the_end_of_a_stop_all_process_ends_everything_with_its_code(run: Any) -> None:
    gateway = run(child("controller"), child("tour", "fails when told", on_exit="stop_all"))
    gateway.pid("controller")
    os.kill(gateway.pid("tour"), signal.SIGHUP)
    assert gateway.process.wait(10) == 3
    assert "controller drains" in gateway.rest()


def test_a_process_may_end_and_be_left_so(run: Any) -> None:
    gateway = run(child("controller"), child("tour", "fails", tethered=False, on_exit="leave"), child("worker-0"))
    gateway.expect("all ready")
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(10) == 0
    assert not [line for line in gateway.rest() if "tour" in line]


@pytest.mark.parametrize(("failures", "expected"), [(1, 0.1), (2, 0.2), (4, 0.8), (8, BACKOFF_MAX_S), (10_000, BACKOFF_MAX_S)])
def test_backoff_grows_and_is_bounded(failures: int, expected: float) -> None:
    assert backoff_s(failures) == pytest.approx(expected)


def test_exit_is_worded() -> None:
    assert describe_exit(2) == "exit code 2"
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(-40) == "killed by signal 40"


def test_a_port_in_use_is_one_line_that_names_the_flag() -> None:
    with listen("127.0.0.1", 0, "--port") as held:
        port = held.getsockname()[1]
        with pytest.raises(StartError, match=rf"^cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --port$"):
            listen("127.0.0.1", port, "--port")


def test_a_host_that_is_not_ours_is_one_line() -> None:
    with pytest.raises(StartError, match=r"^cannot listen on no\.such\.host\.invalid:80: "):
        listen("no.such.host.invalid", 80, "--port")


def test_ipv6_is_listened_on() -> None:
    try:
        held = listen("::1", 0, "--port")
    except StartError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with held:
        assert held.family == socket.AF_INET6


def test_two_gateways_cannot_share_a_state_folder(tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    lock = lock_state_dir(folder)
    with pytest.raises(StartError, match=rf"in use by another gateway \(process {os.getpid()}\); choose another with --state-dir$"):
        lock_state_dir(folder)
    os.close(lock)
    os.close(lock_state_dir(folder))


def test_a_state_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"^cannot use the state folder .*/file/state: Not a directory$"):
        lock_state_dir(str(tmp_path / "file" / "state"))


def test_specs_hand_each_process_its_own_sockets(tmp_path: Path) -> None:
    sockets = {name: listen("127.0.0.1", 0, "--port") for name in ("data", "admin", "metrics", "embedded")}
    try:
        settings = Settings(policy="/p.yaml", state_dir=str(tmp_path), workers=2)
        specs, engines = gateway_specs(settings, sockets, lock=99)
        fds = {name: each.fileno() for name, each in sockets.items()}
        assert [spec.name for spec in specs] == ["controller", "worker-0", "worker-1"]
        assert specs[0].fds == (fds["admin"], fds["metrics"], 99)
        assert specs[2].fds == (fds["data"],)
        assert specs[2].argv[-4:] == ("--index", "1", "--data-fd", str(fds["data"]))
        assert [spec.drains_first for spec in specs] == [False, True, True]
        assert [(spec.name, spec.fds) for spec in engines] == [("embedded", (fds["embedded"],)), ("scoring", ())]
        assert engines[1].environment == specs[0].environment
    finally:
        for each in sockets.values():
            each.close()


def test_a_supervisor_with_nothing_to_do_stops_on_a_signal() -> None:
    spec = ProcessSpec("once", "once", (sys.executable, "-c", "raise SystemExit(7)"), tethered=False, on_exit="stop_all")
    assert Supervisor([spec]).run() == 7
