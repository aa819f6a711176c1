"""Settings of the process, as opposed to the policy: ports, processes, places. Frozen; every flag is also `HEADGATE_*`."""

from __future__ import annotations

import msgspec


class Settings(msgspec.Struct, frozen=True):
    """What `headgate serve` was told. It travels to the processes it starts as JSON in one environment variable."""

    policy: str
    """Path of the policy file, absolute."""
    state_dir: str
    """Absolute. Record store, policy versions and the link's socket live here; one gateway a folder."""
    host: str = "127.0.0.1"
    port: int = 8080
    admin_host: str = "127.0.0.1"
    admin_port: int = 8081
    admin_key: str = ""
    admin_names: str = ""
    """Further host names that the admin listener goes by, separated by commas. Addresses, `localhost` and `admin_host` need not
    be named."""
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 8082
    workers: int = 1
    tls_cert: str = ""
    tls_key: str = ""
    upstream_ca: str = ""
    """PEM file of the authorities that https replicas are checked against; "" for the system's."""
    log_format: str = "text"
    """text | json."""
    log_level: str = "info"
    trace_sample_percent: float = 1.0
    """Share of exchanges without a sampled parent whose spans are exported."""
    otlp_endpoint: str = ""
    """OTLP/HTTP traces endpoint (`http://collector:4318/v1/traces`); "" exports none."""
    otlp_metrics_endpoint: str = ""
    """The same for metrics (`http://collector:4318/v1/metrics`)."""
    drain_s: float = 30.0
    """`server.drain` of the policy at the start; the controller reports a change to the supervisor."""
    embedded_port: int = 0
    """Port of the embedded models' loopback socket, filled in by the supervisor."""
    run: str = ""
    """Names one life of the whole gateway, filled in by the supervisor: a controller takes over only what was counted in it."""


ENVIRONMENT_VARIABLE = "HEADGATE_SETTINGS"


def encode(settings: Settings) -> str:
    """For the environment of a process."""
    return msgspec.json.encode(settings).decode()


def decode(text: str) -> Settings:
    """The inverse of `encode`. Raises msgspec.DecodeError."""
    return msgspec.json.decode(text, type=Settings)
