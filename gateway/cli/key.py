"""`headgate key new`: a random API key, shown once, and what goes into the policy for it."""

from __future__ import annotations

import argparse
import hashlib

from gateway.cli.output import WELL, add_output, hint, print_json
from gateway.cli.places import new_key


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser("new", help="make a key")
    new.add_argument("--name", default="my-key", help="what records and logs will call it")
    add_output(new)


def run(args: argparse.Namespace) -> int:
    key = new_key()
    digest = hashlib.sha256(key.encode()).hexdigest()
    if args.output == "json":
        print_json({"name": args.name, "key": key, "sha256": digest})
        return WELL
    print(f"key     {key}\nsha256  {digest}")
    hint(
        f"\nThe key is shown this once: give it to whoever will use it. The gateway needs only its hash. Write that to a file beside\n"
        f"the policy, keys/{args.name}.sha256, and add to the policy:\n\n"
        f'keys:\n  - name: {args.name}\n    sha256: "${{file:keys/{args.name}.sha256}}"'
    )
    return WELL
