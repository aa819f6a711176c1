"""`headgate schema`: the JSON Schema of the policy file, for editors and machines."""

from __future__ import annotations

import argparse

from gateway.cli.output import WELL, print_json
from policies.jsonschema import json_schema


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "An editor reads it from `# yaml-language-server: $schema=headgate.schema.json` at the top of the policy."


def run(args: argparse.Namespace) -> int:
    print_json(json_schema())
    return WELL
