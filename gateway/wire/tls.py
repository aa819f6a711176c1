"""TLS contexts of the two sides. Only HTTP/1.1 is offered, so a peer that would rather speak HTTP/2 does not."""

from __future__ import annotations

import ssl

_ALPN = ["http/1.1"]


def server_context(cert: str, key: str) -> ssl.SSLContext:
    """For the listening side. Paths of PEM files; raises OSError or ssl.SSLError where they are missing or do not match."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(_ALPN)
    return context


def client_context(ca_file: str) -> ssl.SSLContext:
    """For calling https replicas: certificate and name are checked against `ca_file` (PEM), or the system's where it is "". The name
    must be among the certificate's alternative names: its subject is only a description (RFC 9525, section 2)."""
    context = ssl.create_default_context(cafile=ca_file or None)
    context.hostname_checks_common_name = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
    return context
