"""`headgate demo`: the gateway on the two small models that come with it, and a little traffic, so that there is something to see."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import resources
from pathlib import Path

from gateway import settings as process_settings
from gateway import supervisor
from gateway.child import ProcessSpec
from gateway.cli import places
from gateway.cli.output import CommandError, hint
from gateway.cli.policy_file import load_or_fail
from gateway.cli.serve import add_options, settings_of
from gateway.settings import Settings
from gateway.telemetry import logs

POLICY = """\
# The policy of `headgate demo`. Change it while the demo runs: it is taken up at once, or refused with the reason.
# It is written anew when the demo starts.
version: 1

backends:                           # two small models that run in a process beside the gateway
  - name: specialist
    kind: embedded
    model: specialist
    evidence: logprobs
    concurrency: {limit: 1, queue: 0}   # one request at a time: what comes meanwhile fails at once, and goes to the next
  - {name: generalist, kind: embedded, model: generalist, evidence: logprobs}

detectors:
  - {name: tickets, artifact: detector.npz}     # knows what the specialist was trained on

records: {content: {store: true, redact: [email, phone, card, iban]}}

routes:
  - name: support                   # labels a support ticket
    matches: [{models: [support]}]
    guard: {detector: tickets, when_ood: to_last}       # no ticket: to the generalist at once
    cascade:
      stages:
        - backend: specialist
          hold: {tokens: 8, for: 10s}                   # nothing of its answer is sent before it is judged
          defer_when: {calibration: calibration.json}   # not sure enough: the generalist answers instead
      last: generalist
  - name: chat
    matches: [{models: [chat]}]
    backend: generalist
"""
FILES = ("detector.npz", "calibration.json")
"""What the policy names: made by `python -m gateway.embedded.fit`."""


def configure(parser: argparse.ArgumentParser) -> None:
    add_options(parser)
    parser.set_defaults(log_level=os.environ.get("HEADGATE_LOG_LEVEL") or "warning")
    parser.add_argument("--check", action="store_true", help="play the traffic, verify what came of it, and stop")


def run(args: argparse.Namespace) -> int:
    folder = Path(args.state_dir) if args.state_dir else places.state_home() / "demo"
    policy = folder / "policy.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in FILES:
            (folder / name).write_bytes(resources.files("gateway.embedded").joinpath("fitted", name).read_bytes())
        policy.write_text(POLICY, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {error.filename or folder}: {error.strerror}") from error
    args.state_dir = str(folder / "state")
    settings = settings_of(args, policy, load_or_fail(str(policy)).policy)
    logs.configure(format=settings.log_format, level=settings.log_level, process="supervisor")
    hint("starting the gateway and two small models")
    return supervisor.serve(settings, on_ready=lambda _: None, also=lambda ports: [tour(ports, check=args.check)])


def tour(settings: Settings, *, check: bool) -> ProcessSpec:
    """The process that plays the traffic."""
    return ProcessSpec(
        "tour",
        "tour",
        (sys.executable, "-P", "-m", "gateway.cli.tour", *(["--check"] if check else [])),
        environment={process_settings.ENVIRONMENT_VARIABLE: process_settings.encode(settings)},
        tethered=False,
        drains_first=True,
        on_exit="stop_all" if check else "leave",
    )
