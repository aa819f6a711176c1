"""`headgate key new`: a random API key, shown once, and what goes into the policy for it."""

from __future__ import annotations

import argparse
import hashlib
import re
from typing import get_args

from gateway.cli.output import WELL, add_output, hint, print_json
from gateway.cli.places import new_key
from policies.scalars import Name


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser("new", help="make a key", description="Make a key.")
    new.add_argument("--name", default="my-key", type=_name, help="what records and logs will call it")
    add_output(new)


def run(args: argparse.Namespace) -> int:
    key = new_key()
    digest = hashlib.sha256(key.encode()).hexdigest()
    if args.output == "json":
        print_json({"name": args.name, "key": key, "sha256": digest})
        return WELL
    print(f"key     {key}\nsha256  {digest}")
    hint(
        f"\nThe key is shown this once: give it to whoever will use it. The gateway needs only its hash. In the folder of the\n"
        f"policy:\n\n"
        f"mkdir -p keys && echo {digest} > keys/{args.name}.sha256\n\n"
        f"and then in the policy:\n\n"
        f'keys:\n  - name: {args.name}\n    sha256: "${{file:keys/{args.name}.sha256}}"'
    )
    return WELL


def _name(text: str) -> str:
    """One that the policy takes, and that is safe to paste."""
    meta = get_args(Name)[1]
    if re.fullmatch(meta.pattern, text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no name: {meta.extra['words']}")
    return text
