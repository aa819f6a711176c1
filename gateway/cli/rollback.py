"""`headgate rollback`: the policy before this one back in force, its files included, until the file on disk changes."""

from __future__ import annotations

import argparse

from gateway.cli.admin_client import add_admin_options, ask
from gateway.cli.output import WELL, add_output, hint, print_json


def configure(parser: argparse.ArgumentParser) -> None:
    add_admin_options(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    answer = ask(args, "POST", "/rollback")
    if args.output == "json":
        print_json(answer)
    else:
        print(f"policy {answer.get('version', 'before this one')} is in force")
        hint("It stays so, across restarts, until the policy file on disk is changed.")
    return WELL
