"""What a cascade makes of a stream: `python -m loadtests.streaming [--only held|cost] [--output json]`, in under two minutes.

held: a cheap backend writes a token every 50 ms. Of a reply that is accepted, the first byte has to be with the client by token N + 2,
where N are held, and not before token N. Of one that is deferred, the cheap backend has to have nothing running 0.5 s later, by its
own counters; how soon the big one was asked is told, too. Backends and clients are in this process, so that they have one clock; the
gateway is beside it.

cost: CPU microseconds a chunk with a rule and without, and a request with a guard and without, from `loadtests.run` (two cores): on
the mean log-probability, on the likeliest tokens, and with the demo's detector, on a prompt that repeats one sentence.

The table goes to stderr, JSON to stdout with `--output json`. Exit code 1: a goal on time is missed, or an answer was not whole. The
goals of cost are shown, since they hold for one kind of machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
from typing import Any

import msgspec

from loadtests import report, run
from loadtests.scenarios import BY_NAME
from tests.e2e.gateway import Gateway, gateway, said
from tests.standin import Conversation, Script, chunk, entry, scored, standin

HOLDS = (1, 8, 24)
INTERVAL_S = 0.05
TAIL = 6
"""Tokens that an accepted reply has beyond those that are held."""
LATE_TOKENS, STOPPED_S = 2, 0.5
"""The goals."""
SURE, UNSURE = -0.05, -3.0
STREAM_S = 60.0
"""What one answer may take."""
COSTS = ("stream-256", "rule", "rule-top", "request-32", "guard")

POLICY = """
version: 1
backends:
  - {name: cheap, kind: openai, replicas: [CHEAP], model: cheap, evidence: logprobs, readiness: {every: 1h}}
  - {name: big, kind: openai, replicas: [BIG], model: big, readiness: {every: 1h}}
routes:
"""
ROUTE = """
  - name: hold-N
    matches: [{models: [hold-N]}]
    cascade: {stages: [{backend: cheap, hold: {tokens: N}, defer_when: {score: mean_logprob, below: -0.5}}], last: big}
"""


class Seen(msgspec.Struct):
    """One stream, from all sides. Times are of the monotonic clock, in seconds; 0 for what never came."""

    hold: int
    sure: bool
    written: int = 0
    """Tokens that the cheap backend has written."""
    held_at: float = 0.0
    """When it wrote token N."""
    stopped_at: float = 0.0
    """When it had nothing more running."""
    big_asked_at: float = 0.0
    first_byte_at: float = 0.0
    first_byte_token: int = 0
    """How many tokens were written by then."""
    whole: bool = False

    @property
    def tokens(self) -> int:
        """Of the reply: one that is not accepted would go on for long."""
        return self.hold + TAIL if self.sure else self.hold + round(10 / INTERVAL_S)


def number(c: Conversation) -> int:
    """Which stream a request belongs to."""
    return int(c.asked.json["messages"][0]["content"])


def cheap(streams: list[Seen], interval_s: float) -> Script:
    """Writes a token at every interval, until the other side leaves."""

    async def script(c: Conversation) -> None:
        seen = streams[number(c)]
        left = asyncio.create_task(c.until_closed())
        try:
            await c.start_stream()
            await c.event(chunk("", role=True))
            for token in range(1, seen.tokens + 1):
                await asyncio.wait([left], timeout=interval_s)
                if left.done():
                    return
                event = chunk(f"t{token} ")
                event["choices"][0]["logprobs"] = {"content": [entry(f"t{token}", SURE if seen.sure else UNSURE, 0)]}
                seen.written = token
                if token == seen.hold:
                    seen.held_at = time.monotonic()
                await c.event(event)
            await c.event(chunk("", "stop"))
            await c.end_stream()
        finally:
            seen.stopped_at = time.monotonic()
            left.cancel()
            await asyncio.wait([left])  # two may not read at once: the next request comes on this connection

    return script


def big(streams: list[Seen]) -> Script:
    """Answers at once."""

    async def script(c: Conversation) -> None:
        streams[number(c)].big_asked_at = time.monotonic()
        await scored("big knows", SURE)(c)

    return script


async def ask(running: Gateway, streams: list[Seen], at: int, delay_s: float) -> None:
    """One client, byte by byte."""
    await asyncio.sleep(delay_s)
    seen = streams[at]
    body = json.dumps({"model": f"hold-{seen.hold}", "stream": True, "messages": [{"role": "user", "content": str(at)}]}).encode()
    host, _, port = running.data.removeprefix("http://").partition(":")
    async with asyncio.timeout(STREAM_S):
        reader, writer = await asyncio.open_connection(host, int(port))
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer = await reader.read(65536)
        seen.first_byte_at, seen.first_byte_token = time.monotonic(), seen.written
        while answer and not answer.endswith(b"0\r\n\r\n"):
            more = await reader.read(65536)
            if not more:
                break
            answer += more
        writer.close()
    wanted = [f"t{token}" for token in range(1, seen.tokens + 1)] if seen.sure else ["big", "knows"]
    seen.whole = b"[DONE]" in answer and said(unchunked(answer)).split() == wanted


def unchunked(answer: bytes) -> bytes:
    """The body of an answer in chunks."""
    rest = answer.partition(b"\r\n\r\n")[2]
    parts = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        parts.append(rest[:length])
        rest = rest[length + 2 :]
    return b"".join(parts)


async def held(rounds: int, streams_each: int, holds: tuple[int, ...], interval_s: float) -> list[Seen]:
    """Streams of each hold, half of them deferred, spread over two intervals."""
    streams: list[Seen] = []
    async with standin(cheap(streams, interval_s)) as small, standin(big(streams)) as large:
        routes = "".join(ROUTE.replace("hold-N", f"hold-{hold}").replace("tokens: N", f"tokens: {hold}") for hold in holds)
        policy = POLICY.replace("CHEAP", small.url).replace("BIG", large.url) + routes
        async with gateway(policy, "--workers", "1") as running:
            for _ in range(rounds):
                for hold in holds:
                    first = len(streams)
                    streams += [Seen(hold, sure=each % 2 == 0) for each in range(2 * streams_each)]
                    delays = [interval_s * each / streams_each for each in range(2 * streams_each)]
                    await asyncio.gather(*(ask(running, streams, first + each, delay_s) for each, delay_s in enumerate(delays)))
                await asyncio.sleep(STOPPED_S)  # so that what has not stopped by then is seen
    return streams


def spread(values: list[float]) -> dict[str, float]:
    """Median, p99 and most, in milliseconds."""
    ordered = sorted(values)
    places = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(1000 * ordered[math.ceil(q * len(ordered)) - 1], 2) for name, q in places.items()} if ordered else {}


def told(streams: list[Seen], holds: tuple[int, ...]) -> list[dict[str, Any]]:
    """Figures by hold, with what is missed."""
    found = []
    for hold in holds:
        accepted = [each for each in streams if each.hold == hold and each.sure]
        deferred = [each for each in streams if each.hold == hold and not each.sure]
        late = [each.first_byte_token - hold for each in accepted]
        stopped = [each.stopped_at - each.held_at for each in deferred if each.stopped_at]
        found.append(
            {
                "hold_tokens": hold,
                "accepted": len(accepted),
                "deferred": len(deferred),
                "not_whole": sum(not each.whole for each in (*accepted, *deferred)),
                "first_byte_token_max": hold + max(late),
                "first_byte_token_min": hold + min(late),
                "first_byte_too_late": sum(each > LATE_TOKENS for each in late),
                "first_byte_too_early": sum(each < 0 for each in late),
                "first_byte_after_token_n_ms": spread([each.first_byte_at - each.held_at for each in accepted]),
                "big_asked_after_token_n_ms": spread([each.big_asked_at - each.held_at for each in deferred if each.big_asked_at]),
                "cheap_stopped_after_token_n_ms": spread(stopped),
                "not_stopped_in_time": len(deferred) - sum(each <= STOPPED_S for each in stopped),
            }
        )
    return found


def missed(figures: list[dict[str, Any]]) -> list[str]:
    """What may not be, in words."""
    names = {
        "not_whole": "answers were not whole",
        "first_byte_too_late": f"accepted streams began after token N + {LATE_TOKENS}",
        "first_byte_too_early": "accepted streams began before they were judged",
        "not_stopped_in_time": f"deferred streams still ran {STOPPED_S:g} s later",
    }
    return [f"hold {row['hold_tokens']}: {row[name]} {what}" for row in figures for name, what in names.items() if row[name]]


def cost(rounds: int, seconds: float) -> dict[str, Any]:
    """From `loadtests.run`: what rules and a guard add, round by round."""
    args = run.parse(["--rounds", str(rounds), "--seconds", str(seconds)])
    results = run.run(["headgate"], [BY_NAME[name] for name in COSTS], args)
    goals = [goal for goal in report.goals() if goal.over is not None]
    return {
        "about": results.about,
        "void": results.void,
        "us": {name: row["headgate"]["us"] for name, row in results.summary().items() if row["headgate"]},
        "added_us": {goal.scenario: sorted(report.figures(results, goal)) for goal in goals},
        "goals": [
            verdict.line() for verdict in report.check(results) if verdict.name.removesuffix(", us") in {goal.name for goal in goals}
        ],
    }


def table(found: dict[str, Any]) -> str:
    lines = []
    for row in found.get("held", ()):
        lines.append(
            f"hold {row['hold_tokens']:3}: first byte by token N + {row['first_byte_token_max'] - row['hold_tokens']} in all of "
            f"{row['accepted']} accepted streams (goal N + {LATE_TOKENS}), {row['first_byte_after_token_n_ms']} ms after token N"
        )
        lines.append(
            f"          {row['deferred']} deferred: the big backend asked {row['big_asked_after_token_n_ms']} ms after token N, "
            f"the cheap one idle after {row['cheap_stopped_after_token_n_ms']} ms (goal {1000 * STOPPED_S:g})"
        )
    for name, figure in found.get("cost", {}).get("us", {}).items():
        lines.append(f"{name:12} {figure['median']:8.2f} us CPU ({figure['min']:.2f} to {figure['max']:.2f})")
    return "\n".join([*lines, *found.get("cost", {}).get("goals", ()), *(f"MISSED  {each}" for each in found["missed"])])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("held", "cost"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=16, help="accepted ones at once, and as many deferred ones")
    parser.add_argument("--holds", type=int, nargs="+", default=HOLDS, help="tokens")
    parser.add_argument("--interval-ms", type=float, default=1000 * INTERVAL_S, help="between two tokens of the cheap backend")
    parser.add_argument("--seconds", type=float, default=2, help="of asking, in one round of one scenario of cost")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    args = parser.parse_args(argv)
    found: dict[str, Any] = {"missed": []}
    if args.only != "cost":
        holds = tuple(args.holds)
        found["held"] = told(asyncio.run(held(args.rounds, args.streams, holds, args.interval_ms / 1000)), holds)
        found["missed"] = missed(found["held"])
    if args.only != "held":
        found["cost"] = cost(args.rounds, args.seconds)
        found["missed"] += found["cost"]["void"]
    print(table(found), file=sys.stderr)
    if args.output == "json":
        print(json.dumps(found, indent=1))
    return int(bool(found["missed"]))


if __name__ == "__main__":
    sys.exit(main())
