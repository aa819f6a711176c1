"""`headgate reference`: the pages of the manual that are made from the code, as Markdown."""

from __future__ import annotations

import argparse
import sys

from gateway.cli.output import WELL
from gateway.telemetry import reference as metrics
from policies import reference as policy

METRICS_PAGE = """\
# Metrics

What `/metrics` on the metrics listener gives, for all workers together. Label values come from the policy file or from fixed
lists, never from a request. This page is made from `gateway/telemetry/catalog.py` by `make generated`.

"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("page", choices=("policy", "metrics"), nargs="?", default="policy", help="of the policy file (default) or metrics")


def run(args: argparse.Namespace) -> int:
    sys.stdout.write(METRICS_PAGE + metrics.markdown() if args.page == "metrics" else policy.markdown())
    return WELL
