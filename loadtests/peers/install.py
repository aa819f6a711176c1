"""Put the gateways that Headgate is measured beside in a cache outside the checkout: `python -m loadtests.peers.install nginx litellm`.

Each has a folder of its own under `HEADGATE_PEER_CACHE` (default `~/.cache/headgate/peers`). nginx is Debian's package, unpacked and
not installed; the others are Python packages at a fixed version, each in a virtual environment of its own. A file `complete` is
written last, so that a half-made folder is made again. Nothing of the system is changed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

INSTALL_S = 900.0


class PeerMissingError(Exception):
    """A peer that is not here, or cannot be had on this machine; the message says why."""


class Package(msgspec.Struct, frozen=True):
    """Where a peer comes from, and the program that is run, below its folder."""

    requirements: tuple[str, ...]
    """For pip; none: a Debian package of the peer's name."""
    program: str


# LiteLLM 1.109.0 asks for a later certifi than could be had here on 21 November 2026; 1.106.2 is the newest that could be installed.
PACKAGES = {
    "nginx": Package((), "usr/sbin/nginx"),
    "litellm": Package(("litellm[proxy]==1.106.2",), "bin/litellm"),
    "vllm-router": Package(("vllm-router==0.1.17",), "bin/vllm-router"),
    "sglang-router": Package(("sglang-router==0.3.2",), "bin/python"),
}


def cache() -> Path:
    """The folder that holds every peer."""
    return Path(os.environ.get("HEADGATE_PEER_CACHE") or Path.home() / ".cache/headgate/peers").absolute()


def program(name: str) -> Path:
    """The program of a peer that is complete, or the system's nginx; raises PeerMissingError."""
    folder = cache() / name
    if (folder / "complete").exists():
        return folder / PACKAGES[name].program
    if name == "nginx" and (found := shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")):
        return Path(found)
    raise PeerMissingError(f"{name} is not installed: run `python -m loadtests.peers.install {name}`")


def version(name: str) -> str:
    """What a peer calls itself; "" where it is not installed."""
    try:
        return (cache() / name / "complete").read_text().strip()
    except OSError:
        return ""


def run(*argv: str | Path, cwd: Path | None = None) -> str:
    """What a command says; raises PeerMissingError with its last words."""
    try:
        done = subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_S, check=True)
    except FileNotFoundError as error:
        raise PeerMissingError(f"{argv[0]} is not on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise PeerMissingError(f"{argv[0]} took longer than {INSTALL_S:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise PeerMissingError(f"{' '.join(map(str, argv))}: {error.stderr.strip()[-1000:]}") from error
    return done.stdout.strip()


def install(name: str) -> Path:
    """Install a peer unless it is complete, and return its folder; raises PeerMissingError."""
    folder, package = cache() / name, PACKAGES[name]
    if (folder / "complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if package.requirements:
        run(sys.executable, "-m", "venv", folder)
        run(folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *package.requirements)
        found = package.requirements[0]
    else:
        run("apt-get", "--quiet=2", "-o", "APT::Sandbox::User=root", "download", name, cwd=folder)
        (deb,) = folder.glob("*.deb")
        run("dpkg", "-x", deb, folder)
        found = run("dpkg", "-f", deb, "Version")
        deb.unlink()
    (folder / "complete").write_text(found + "\n")
    return folder


def main() -> int:
    """Install the peers that are named, or all; 1 where one cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"{', '.join(PACKAGES)}; without one, all")
    args = parser.parse_args()
    if unknown := set(args.peers) - set(PACKAGES):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; choose from {', '.join(PACKAGES)}")
    missing = False
    for name in args.peers or PACKAGES:
        try:
            print(f"{name}: {install(name)} ({version(name)})", flush=True)
        except PeerMissingError as error:
            print(f"{name}: cannot be had here: {error}", file=sys.stderr, flush=True)
            missing = True
    return int(missing)


if __name__ == "__main__":
    sys.exit(main())
