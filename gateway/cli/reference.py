"""`headgate reference`: the reference page of the policy file, as Markdown."""

from __future__ import annotations

import argparse
import sys

from gateway.cli.output import WELL
from policies.reference import markdown


def configure(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> int:
    sys.stdout.write(markdown())
    return WELL
