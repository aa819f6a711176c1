"""`headgate diff OLD NEW`: what a change of policy changes, in the words of the file, and for requests that were recorded."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

import msgspec

from gateway.cli.admin_client import add_admin_options, ask
from gateway.cli.output import WELL, add_output, print_json, table
from gateway.cli.policy_file import load_or_fail
from policies.compile import compile_policy
from policies.diff import diff
from policies.load import Loaded
from policies.plan import Features
from policies.snapshot import Decision, Snapshot

REPLAY_MAX = 1_000


class Moved(msgspec.Struct, frozen=True):
    """Recorded requests that the new policy would treat otherwise."""

    requests: int
    before: str
    """`route chat, small first`."""
    after: str


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="OLD", help="a policy file")
    parser.add_argument("new", metavar="NEW", help="another one")
    parser.add_argument("--replay", metavar="N", type=int, default=0, help="decide the last N recorded requests by both")
    add_admin_options(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    old, new = load_or_fail(args.old), load_or_fail(args.new)
    changes = diff(old.policy, new.policy)
    replayed, moved = replay(args, old, new) if args.replay > 0 else (0, [])
    if args.output == "json":
        print_json({"old": old.version, "new": new.version, "changes": changes, "replayed": replayed, "moved": moved})
        return WELL
    print("\n".join(map(str, changes)) if changes else "nothing changes")
    if args.replay > 0:
        total = sum(each.requests for each in moved)
        print(f"of the last {replayed} requests, {total} would be decided otherwise")
        if moved:
            print(table([(each.requests, each.before, "->", each.after) for each in moved]))
    return WELL


def replay(args: argparse.Namespace, old: Loaded, new: Loaded) -> tuple[int, list[Moved]]:
    """How many records were replayed, and those that move."""
    answer = ask(args, "GET", "/exchanges", params={"limit": min(args.replay, REPLAY_MAX)})
    records = answer["exchanges"]
    before, after = (compile_policy(loaded.policy, loaded.version, loaded.files) for loaded in (old, new))
    moves = Counter((decided(before, record), decided(after, record)) for record in records)
    return len(records), [Moved(count, one, other) for (one, other), count in moves.most_common() if one != other]


def decided(snapshot: Snapshot, record: dict[str, Any]) -> str:
    """Which route and which backend first. A record has no headers and no text, so a match on headers is taken as not met."""
    key = next((key for key in snapshot.policy.keys if key.name == record.get("key")), None)
    features = Features(
        exchange_id=record["exchange_id"],
        endpoint=record["endpoint"],
        model=record["model"],
        stream=record["stream"],
        key=key.name if key else None,
        labels=key.labels if key else {},
    )
    decision = snapshot.decide(features)
    if isinstance(decision, Decision):
        return f"route {decision.route.name}, {decision.route.backends[0]} first"
    return "refused: no such model" if decision.why == "model_not_found" else "refused: not with this key"
