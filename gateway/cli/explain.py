"""`headgate explain`: one request's way through a policy, step by step, offline; or what was done with an exchange that was."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from gateway.cli.admin_client import add_admin_options, ask
from gateway.cli.assumptions import Assumed, assumed_scores, failure
from gateway.cli.output import USAGE, WELL, WRONG, CommandError, add_output, print_json, table
from gateway.cli.policy_file import load_or_fail
from gateway.cli.walk import Explanation, explain
from gateway.errors import ApiError
from gateway.link.messages import (
    AssessmentRecord,
    AttemptRecord,
    AuditRecord,
    CallRecord,
    Content,
    ExchangeRecord,
    Findings,
    JudgementRecord,
    ScoresRecord,
)
from gateway.records.story import story
from gateway.server.accept import ENDPOINTS
from policies.compile import compile_policy
from policies.plan import Mirror
from policies.schema import Key, Policy

_Struct = TypeVar("_Struct", bound=msgspec.Struct)
_Read = TypeVar("_Read")
REQUEST_BYTES_MAX = 64 * 1024 * 1024


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "headgate explain POLICY REQUEST.json [options]\n       headgate explain --exchange ID [options]"
    parser.add_argument("policy", metavar="POLICY", nargs="?", help="the policy file")
    parser.add_argument("request", metavar="REQUEST.json", nargs="?", help="the body of a request; - reads it from stdin")
    parser.add_argument("--endpoint", choices=sorted(ENDPOINTS.values()), default="chat", help="where the request is sent (default chat)")
    parser.add_argument("--key", metavar="NAME", help="name of the API key that it comes with")
    parser.add_argument("--header", metavar="NAME=VALUE", action="append", default=[], help="a header that it comes with; repeatable")
    parser.add_argument(
        "--fail",
        metavar="BACKEND=HOW",
        action="append",
        default=[],
        help="assume that a call to BACKEND fails: an HTTP status (503) or a kind (connect, timeout_first_token, ...); repeatable",
    )
    parser.add_argument(
        "--scores",
        metavar="BACKEND=SCORES",
        action="append",
        default=[],
        help="assume that BACKEND's reply has these scores: mean_logprob:-0.6,entropy:1.2 or truncated; repeatable (default unavailable)",
    )
    parser.add_argument(
        "--ood", choices=("true", "false", "unscored"), help="assume that the guard finds this (default: its detector is asked)"
    )
    parser.add_argument("--defer-limited", action="store_true", help="assume that the route's defer_limit is exceeded")
    parser.add_argument("--exchange", metavar="ID", help="show what a running gateway did with this exchange (x-headgate-exchange-id)")
    add_admin_options(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    if args.exchange:
        return show_exchange(args)
    if not args.policy or not args.request:
        raise CommandError("give a policy and a request, or --exchange ID", USAGE)
    loaded = load_or_fail(args.policy)
    policy = loaded.policy
    known = [backend.name for backend in policy.backends]
    assumed = Assumed(
        by_backend(args.fail, "--fail", known, failure),
        by_backend(args.scores, "--scores", known, assumed_scores),
        args.ood,
        args.defer_limited,
    )
    try:
        explanation = explain(
            compile_policy(policy, loaded.version, loaded.files),
            read_request(args.request),
            endpoint=args.endpoint,
            key=find_key(policy, args.key),
            headers=pairs(args.header, "--header"),
            assumed=assumed,
        )
    except ApiError as refused:
        raise CommandError(f"the request is refused with {refused.status}: {refused.message}", WRONG) from refused
    print_json(explanation) if args.output == "json" else print(as_text(explanation))
    return WELL


def pairs(given: list[str], option: str) -> dict[str, str]:
    """`a=b` words as a mapping. Raises CommandError for a word without `=`."""
    for word in given:
        if "=" not in word.strip("="):
            raise CommandError(f"{option} takes NAME=VALUE, not {word!r}", USAGE)
    return dict(word.split("=", 1) for word in given)


def by_backend(given: list[str], option: str, known: list[str], read: Callable[[str], _Read]) -> dict[str, _Read]:
    """`BACKEND=WORD` words, each word as `read` takes it. Raises CommandError for one that it does not, and for another backend."""
    try:
        found = {name: read(word) for name, word in pairs(given, option).items()}
    except ValueError as error:
        raise CommandError(f"{option}: {error}", USAGE) from error
    if unknown := sorted(set(found) - set(known)):
        raise CommandError(f"{option}: there is no backend {unknown[0]!r}; there are {', '.join(known)}", USAGE)
    return found


def read_request(path: str) -> bytes:
    """The request's bytes, from a file or stdin."""
    try:
        return sys.stdin.buffer.read(REQUEST_BYTES_MAX) if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", USAGE) from error


def find_key(policy: Policy, name: str | None) -> Key | None:
    """The key of that name; None for an anonymous request, where the policy takes those."""
    if name is None:
        if policy.keys and not policy.server.anonymous:
            raise CommandError(f"the policy asks for a key: give one with --key ({', '.join(key.name for key in policy.keys)})", USAGE)
        return None
    for key in policy.keys:
        if key.name == name:
            return key
    raise CommandError(f"the policy has no key {name!r}; it has {', '.join(key.name for key in policy.keys) or 'none'}", USAGE)


def as_text(found: Explanation) -> str:
    """An explanation for people."""
    streamed = ", streamed" if found.stream else ""
    lines = [f"request   {found.endpoint} for {found.model!r}{streamed}, {f'key {found.key}' if found.key else 'without key'}"]
    lines += ["routes", table([(each.route, "taken:" if each.taken else "passed:", each.why) for each in found.considered])]
    if found.segments:
        lines.append(f"segments  {', '.join(f'{name}={value}' for name, value in found.segments.items())}")
    if found.unit is not None:
        lines.append(f"unit      {found.unit}")
    if found.guard is not None:
        lines.append(f"guard     {found.guard}")
    if found.steps:
        calls = enumerate(found.steps, 1)
        lines += ["calls", table([(number, step.backend, f"{step.hold}:", step.outcome, step.why) for number, step in calls])]
    lines.append(f"verdict   {found.verdict}")
    lines += [f"after     {worded_mirror(mirror)}" for mirror in found.mirrors]
    return "\n".join(lines)


def worded_mirror(mirror: Mirror) -> str:
    """A copy that is made off the client's path."""
    if mirror.purpose == "audit_accepted":
        others = f" (where it fails, {', then '.join(mirror.others)})" if mirror.others else ""
        return f"audit: {mirror.backend}{others} is asked the same, and the two are compared ({mirror.agree})"
    return f"audit: {mirror.backend} may finish its deferred reply, and the two are compared ({mirror.agree})"


def show_exchange(args: argparse.Namespace) -> int:
    """Print the story of a recorded exchange."""
    if args.policy:
        raise CommandError("--exchange asks the running gateway: give no policy with it", USAGE)
    answer = ask(args, "GET", f"/exchanges/{quote(args.exchange, safe='')}")
    if args.output == "json":
        print_json(answer)
        return WELL
    try:
        lines = story(from_json(answer))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CommandError("the gateway is of another version: its answer can be seen with --output json") from error
    print("\n".join(lines))
    return WELL


def from_json(answer: dict[str, Any]) -> ExchangeRecord:
    """The record that `gateway.records.story.to_json` wrote. A field that this version does not know is left out."""
    audits = [
        _known(
            AuditRecord,
            audit,
            call=None if audit["call"] is None else _call(audit["call"]),
            before=tuple(map(_call, audit.get("before", ()))),
        )
        for audit in answer.get("audits", ())
    ]
    content = answer["content"] and Content(
        answer["content"]["request"].encode(), answer["content"]["response"].encode(), answer["content"]["truncated"]
    )
    return _known(
        ExchangeRecord,
        answer,
        segments=tuple(answer["segments"].items()),
        calls=tuple(map(_call, answer["calls"])),
        content=content,
        findings=_findings(answer.get("findings")),
        audits=tuple(audits),
    )


def _call(call: dict[str, Any]) -> CallRecord:
    return _known(
        CallRecord,
        call,
        finish_reasons=tuple(call["finish_reasons"]),
        attempts=tuple(_known(AttemptRecord, a) for a in call["attempts"]),
        scores=_scores(call.get("scores")),
    )


def _findings(found: dict[str, Any] | None) -> Findings | None:
    if found is None:
        return None
    judgements = tuple(_known(JudgementRecord, judgement) for judgement in found["judgements"])
    assessment = None if found["assessment"] is None else _known(AssessmentRecord, found["assessment"])
    return _known(Findings, found, judgements=judgements, assessment=assessment)


def _scores(scores: dict[str, Any] | None) -> ScoresRecord | None:
    return None if scores is None else _known(ScoresRecord, scores, quantiles=tuple(scores["quantiles"]))


def _known(cls: type[_Struct], answer: dict[str, Any], **instead: Any) -> _Struct:
    return cls(**{name: instead.get(name, answer[name]) for name in cls.__struct_fields__ if name in answer})
