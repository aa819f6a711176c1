"""`headgate status`: what a running gateway is doing."""

from __future__ import annotations

import argparse

from gateway.cli.admin_client import add_admin_options, ask
from gateway.cli.output import WELL, add_output, print_json, readable


def configure(parser: argparse.ArgumentParser) -> None:
    add_admin_options(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    answer = ask(args, "GET", "/status")
    print_json(answer) if args.output == "json" else print(readable(answer))
    return WELL
