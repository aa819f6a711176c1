"""`headgate serve POLICY`: check the policy, then run the gateway until it is told to stop."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from gateway import supervisor
from gateway.cli import places
from gateway.cli.options import add_option, between, choice, http_url, port, whole
from gateway.cli.output import USAGE, CommandError, hint
from gateway.cli.policy_file import load_or_fail
from gateway.control.exposure import open_to_all
from gateway.settings import Settings
from gateway.telemetry import logs
from policies.schema import Policy

log = logging.getLogger(__name__)

READY = "Headgate is ready"
WORKERS_MAX = 256
TRACES_PATH, METRICS_PATH = "/v1/traces", "/v1/metrics"
"""Of a collector. Source: OTLP specification, OTLP/HTTP request."""


def configure(parser: argparse.ArgumentParser) -> None:
    variable = "HEADGATE_POLICY"
    default = os.environ.get(variable)
    parser.add_argument("policy", metavar="POLICY", help=f"the policy file [{variable}]", nargs="?" if default else None, default=default)
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Every option of `Settings`; `demo` takes them, too."""
    add_option(parser, "--host", "address of the data listener", "127.0.0.1")
    add_option(parser, "--port", "its port", "8080", port)
    add_option(parser, "--admin-host", "address of the admin listener", "127.0.0.1")
    add_option(parser, "--admin-port", "its port", "8081", port)
    add_option(parser, "--admin-key", "key of the admin listener; without one the user's own, made at the first start")
    add_option(parser, "--admin-names", "further host names that it goes by, separated by commas; any other Host is refused")
    add_option(parser, "--metrics-host", "address of the metrics listener", "127.0.0.1")
    add_option(parser, "--metrics-port", "its port", "8082", port)
    add_option(parser, "--workers", "worker processes; one serves about as much as one core can", "1", whole(1, WORKERS_MAX))
    add_option(parser, "--state-dir", "folder of records and policy versions; without one, one of its own for each policy file")
    add_option(parser, "--tls-cert", "PEM certificate chain of the data listener")
    add_option(parser, "--tls-key", "PEM key of that certificate")
    add_option(parser, "--upstream-ca", "PEM authorities that https backends are checked against, instead of the system's")
    add_option(parser, "--log-format", "text | json", "text", choice("text", "json"))
    add_option(parser, "--log-level", "debug | info | warning | error", "info", choice("debug", "info", "warning", "error"))
    add_option(parser, "--trace-sample-percent", "share of exchanges whose spans are exported", "1", between(0, 100))
    add_option(parser, "--otlp-endpoint", "OTLP/HTTP traces endpoint (http://collector:4318/v1/traces)", type=http_url)
    add_option(
        parser,
        "--otlp-metrics-endpoint",
        "the same for metrics; without one, that of the traces, ending in /v1/metrics",
        type=http_url,
    )


def run(args: argparse.Namespace) -> int:
    path = Path(args.policy)
    settings = settings_of(args, path, load_or_fail(str(path)).policy)
    logs.configure(format=settings.log_format, level=settings.log_level, process="supervisor")
    return supervisor.serve(settings, on_ready=announce)


def settings_of(args: argparse.Namespace, path: Path, policy: Policy) -> Settings:
    """What the processes are told. Raises CommandError for options that cannot be."""
    if bool(args.tls_cert) != bool(args.tls_key):
        raise CommandError("--tls-cert and --tls-key go together", USAGE)
    for file in filter(None, (args.tls_cert, args.tls_key, args.upstream_ca)):
        if not os.access(file, os.R_OK):
            raise CommandError(f"cannot read {file}", USAGE)
    if why := open_to_all(policy, args.host):
        raise CommandError(f"{path}: {why}")
    state_dir = os.path.abspath(args.state_dir) if args.state_dir else str(places.state_dir(path))
    if len(os.fsencode(state_dir)) > places.STATE_DIR_BYTES_MAX:
        raise CommandError(
            f"the path of the state folder is too long: {state_dir} has more than {places.STATE_DIR_BYTES_MAX} bytes; "
            "choose another with --state-dir",
            USAGE,
        )
    given = {name: getattr(args, name) for name in Settings.__struct_fields__ if hasattr(args, name)}
    return Settings(
        **{
            **given,
            "policy": str(path.absolute()),
            "state_dir": state_dir,
            "admin_key": args.admin_key or places.admin_key(),
            "otlp_metrics_endpoint": args.otlp_metrics_endpoint or metrics_beside(args.otlp_endpoint),
            "drain_s": policy.server.drain,
        }
    )


def metrics_beside(traces: str) -> str:
    """Where the collector that takes traces there takes metrics; "" where that cannot be told."""
    return f"{traces.removesuffix(TRACES_PATH)}{METRICS_PATH}" if traces.endswith(TRACES_PATH) else ""


def announce(settings: Settings) -> None:
    """Say where it listens, once it does: to people, or as a line of the log where that is for machines."""
    scheme = "https" if settings.tls_cert else "http"
    where = {
        "base_url": f"{url(settings.host, settings.port, scheme)}/v1",
        "admin": url(settings.admin_host, settings.admin_port),
        "metrics": f"{url(settings.metrics_host, settings.metrics_port)}/metrics",
        "state": settings.state_dir,
    }
    if settings.log_format == "json":
        log.info(READY, extra=where)
    else:
        hint("\n".join([READY, *(f"  {name:<8}  {value}" for name, value in where.items())]))


def url(host: str, port: int, scheme: str = "http") -> str:
    """Of a listener; one on every address is shown by its loopback address."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{scheme}://{shown}:{port}"
