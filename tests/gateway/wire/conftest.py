"""Both loops that the wire may find itself on."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A worker runs on uvloop; that asyncio's own loop does as well keeps the wire free of what only uvloop does."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A self-signed certificate for localhost: (certificate, key)."""
    return make_certificate(tmp_path_factory.mktemp("tls"), "subjectAltName=DNS:localhost")


@pytest.fixture(scope="session")
def nameless_certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """One that says localhost in its subject alone."""
    return make_certificate(tmp_path_factory.mktemp("tls"), "keyUsage=digitalSignature,keyCertSign")


def make_certificate(folder: Path, extension: str) -> tuple[str, str]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", extension, "-keyout", str(key), "-out", str(cert)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    return str(cert), str(key)
