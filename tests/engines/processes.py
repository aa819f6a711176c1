"""Runs real engines on loopback, each in a process group of its own with its output in a file."""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from loadtests.processes import free_port
from tests.engines.install import installed

VLLM_START_S = 240.0
LLAMA_START_S = 30.0
STOP_S = 10.0
LOG_CHARS_SHOWN = 4000


class Engine:
    """A running engine. It may still be loading: `wait_ready`."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, port: int, start_s: float, environment: Mapping[str, str]) -> None:
        """`start_s` is how long it may take until it is ready."""
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        self._until = time.monotonic() + start_s
        # As beside the gateway: whatever ends the tests, the end of the tether ends the engine.
        self._tether, other_end = socket.socketpair()
        with log.open("wb") as output, other_end:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.foreign", str(other_end.fileno()), *argv],
                pass_fds=[other_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait until its health page says 200; AssertionError with the end of its log where it dies or takes too long."""
        while True:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            if self.process.poll() is not None or time.monotonic() > self._until:
                state = "died" if self.process.returncode is not None else "is not ready"
                raise AssertionError(f"{self.name} {state}; its log ends:\n{self._log.read_text(errors='replace')[-LOG_CHARS_SHOWN:]}")
            time.sleep(0.2)

    def metric(self, name: str) -> float:
        """The sum of a metric's samples on its own metrics page."""
        lines = httpx.get(f"{self.url}/metrics", timeout=10).text.splitlines()
        samples = [line.rpartition(" ")[2] for line in lines if line.startswith((f"{name}{{", f"{name} "))]
        assert samples, f"{self.name} has no metric {name}"
        return sum(map(float, samples))

    def kill_core(self) -> None:
        """Kill the process that computes (vLLM's EngineCore) and leave the server in front of it alive."""
        (core,) = (pid for pid in _descendants(self.process.pid) if Path(f"/proc/{pid}/comm").read_text().startswith("VLLM::Eng"))
        os.kill(core, signal.SIGKILL)

    def stop(self) -> None:
        """End the whole process group."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(STOP_S)
        self._tether.close()


def start_vllm(model: Path, log: Path, *options: str) -> Engine:
    """A vLLM that serves a Hugging Face folder under the folder's name; raises EngineMissingError."""
    program = installed("vllm") / "bin/vllm"
    port = free_port()
    argv = [str(program), "serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--served-model-name", model.name]
    argv += ["--dtype", "float32", "--max-model-len", "2048", "--max-num-seqs", "16", "--kv-cache-memory-bytes", "64M", "--enforce-eager"]
    offline = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    # Without the compiler, which takes 20 s over the first request that wants log-probabilities.
    small = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
    # As a vLLM is for as long as it has not noticed: a server without an engine.
    stays = {"VLLM_KEEP_ALIVE_ON_ENGINE_DEATH": "1"}
    return Engine(f"vllm {model.name}", [*argv, *options], log, port, VLLM_START_S, offline | small | stays)


def start_llama(model: Path, log: Path, *options: str) -> Engine:
    """A llama-server that serves a GGUF file under the file's stem; raises EngineMissingError."""
    root = installed("llama") / "root"
    libraries = root / "usr/lib" / f"{platform.machine()}-linux-gnu"
    # Its C library is newer than the system's, so its own loader starts it; which processor's code it loads is named here, because
    # it looks for that beside the loader.
    backends = libraries / "ggml/backends0"
    argv = [str(next(libraries.glob("ld-linux-*.so.*"))), "--library-path", f"{libraries}:{libraries}/llama:{backends}:{libraries}/ggml"]
    port = free_port()
    argv += [str(root / "usr/bin/llama-server"), "-m", str(model), "--alias", model.stem, "--host", "127.0.0.1", "--port", str(port)]
    # Every open connection holds one of its HTTP threads, an idle one for 5 s, while further connections wait for a thread.
    argv += ["--threads", "1", "--threads-http", "64", "--ctx-size", "2048", "--jinja", "--metrics"]
    return Engine(
        f"llama-server {model.stem}", [*argv, *options], log, port, LLAMA_START_S, {"GGML_BACKEND_PATH": str(_cpu_code(backends))}
    )


def _cpu_code(backends: Path) -> Path:
    """The library for this processor."""
    flags = Path("/proc/cpuinfo").read_text()
    for name, needs in (("icelake", "avx512_vnni"), ("haswell", "avx2"), ("x64", "")):
        if needs in flags and (found := backends / f"libggml-cpu-{name}.so").exists():
            return found
    return next(backends.glob("libggml-cpu*.so"))


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *_descendants(child)]
    return found
