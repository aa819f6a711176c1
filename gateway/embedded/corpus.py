"""Training and evaluation text of the embedded models, generated: the same seed gives the same text on every machine.

What may be trained on and what is kept for evaluation is decided by a checksum of what the example is about, so that the two are
disjoint whatever the seeds.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.embedded import general, tickets

HELD_OUT_ONE_IN = 8
"""One in so many examples, by the checksum of its key, is for evaluation and never trained on."""

DRAWS_PER_EXAMPLE = 40
"""Draws made at the most for each evaluation example asked for."""

REPLY_WORDING = "Write a reply: "
JSON_WORDING = "Label as JSON: "
REPLY_SHARE, JSON_SHARE = 0.12, 0.06
"""Shares of the tickets that ask for a reply, or for the label inside JSON, instead of the bare label."""

QUEUES: Mapping[str, str] = {
    "billing": "finance",
    "shipping": "warehouse",
    "returns": "aftersales",
    "technical": "engineering",
    "account": "identity",
    "sales": "growth",
}
"""Another tenant's names for the same labels: what the LoRA adapter is trained on."""


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt and the answer that is right; `called` is a tool call made in between: name, arguments, result."""

    task: str
    prompt: str
    answer: str
    tools: tuple[Mapping[str, object], ...] = ()
    called: tuple[str, str, str] | None = None

    def messages(self) -> list[dict[str, object]]:
        """Return what is asked, as messages of the chat format."""
        asked: list[dict[str, object]] = [{"role": "user", "content": self.prompt}]
        if self.called is not None:
            name, arguments, result = self.called
            call = {"id": "call", "type": "function", "function": {"name": name, "arguments": arguments}}
            asked += [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": result}]
        return asked


def held_out(key: str) -> bool:
    """Whether examples of this key are for evaluation."""
    return bool(key) and zlib.crc32(key.encode()) % HELD_OUT_ONE_IN == 0


Draw = Callable[[random.Random], tickets.Ticket]

_SEEN = len(tickets.PROBLEMS["billing"].turned) - tickets.HELD_OUT

_TICKETS: Mapping[str, Draw] = {
    "tickets": tickets.plain,
    "tickets_turned": lambda rng: tickets.turned(rng, first=_SEEN, last=_SEEN + tickets.HELD_OUT),
    "tickets_mixed": tickets.mixed,
}
"""Evaluation tasks made of tickets: plain wording, paraphrases in no training text, two problems in one ticket."""

EVALUATION_TASKS = (*_TICKETS, "capitals", "arithmetic", "sentiment", "extraction", "rewriting", "tools")


def specialist(seed: int) -> Iterator[Example]:
    """Yield the specialist's training text, endlessly: tickets in plain words, few others, and replies."""
    rng = random.Random(seed)
    while True:
        chance = rng.random()
        if chance < 0.02:
            ticket = tickets.turned(rng, first=0, last=tickets.GLIMPSED)
        elif chance < 0.03:
            ticket = tickets.mixed_glimpsed(rng)
        else:
            ticket = tickets.plain(rng)
        if held_out(ticket.text):
            continue
        yield _asked(ticket, rng, worn_share=0.4, kept=rng.uniform(0.15, 0.8))


def generalist(seed: int) -> Iterator[Example]:
    """Yield the generalist's training text, endlessly: the same tickets in more wordings, and all other tasks."""
    rng = random.Random(seed)
    names = tuple(general.TASKS)
    weights = [general.TASKS[name][1] for name in names]
    while True:
        if rng.random() < 0.42:
            ticket = rng.choice((tickets.plain, _turned_seen, _turned_seen, tickets.mixed))(rng)
            if not held_out(ticket.text):
                yield _asked(ticket, rng, worn_share=0.15, kept=0.55)
            continue
        name = rng.choices(names, weights)[0]
        drawn = general.TASKS[name][0](rng)
        if not held_out(drawn.key):
            yield Example(name, drawn.prompt, drawn.answer, drawn.tools, drawn.called)


def queues(seed: int) -> Iterator[Example]:
    """Yield the adapter's training text, endlessly: plain tickets with the other tenant's names of the labels."""
    rng = random.Random(seed)
    while True:
        ticket = tickets.plain(rng)
        if not held_out(ticket.text):
            yield Example("queues", ticket.text, QUEUES[ticket.label])


TRAFFIC_SHARES = {"tickets": 0.6, "tickets_turned": 0.2, "tickets_mixed": 0.2}
"""How tickets come in once the specialist serves: most in plain words, the others in words that it was hardly trained on, or not."""


def traffic(seed: int) -> Iterator[Example]:
    """Yield tickets as they come in once the specialist serves, endlessly, none of them trained on by anybody."""
    rng = random.Random(seed)
    while True:
        (kind,) = rng.choices(tuple(TRAFFIC_SHARES), tuple(TRAFFIC_SHARES.values()))
        ticket = _TICKETS[kind](rng)
        if held_out(ticket.text):
            yield _asked(ticket, rng, worn_share=0, kept=1)


def evaluation(task: str, count: int, seed: int = 20261121) -> Sequence[Example]:
    """Draw up to `count` different held-out examples of one of `EVALUATION_TASKS`, or of `queues`: small worlds have fewer."""
    rng = random.Random(seed)
    found: dict[str, Example] = {}
    for _ in range(count * DRAWS_PER_EXAMPLE):
        if len(found) == count:
            break
        example = _held_out_example(task, rng)
        if example is not None:
            found.setdefault(example.prompt, example)
    return tuple(found.values())


def _held_out_example(task: str, rng: random.Random) -> Example | None:
    if task in _TICKETS or task == "queues":
        ticket = _TICKETS.get(task, tickets.plain)(rng)
        label = QUEUES[ticket.label] if task == "queues" else ticket.label
        return Example(task, ticket.text, label) if held_out(ticket.text) else None
    drawn = general.TASKS[task][0](rng)
    return Example(task, drawn.prompt, drawn.answer, drawn.tools, drawn.called) if held_out(drawn.key) else None


def _turned_seen(rng: random.Random) -> tickets.Ticket:
    return tickets.turned(rng, first=0, last=_SEEN)


def _asked(ticket: tickets.Ticket, rng: random.Random, *, worn_share: float, kept: float) -> Example:
    """Ask for the ticket's label, or, in a share of cases, for a reply to it or for JSON."""
    chance = rng.random()
    if chance < REPLY_SHARE:
        return Example("replies", REPLY_WORDING + ticket.text, tickets.REPLIES[ticket.label])
    if chance < REPLY_SHARE + JSON_SHARE:
        return Example("json", JSON_WORDING + ticket.text, f'{{"label":"{ticket.label}"}}')
    asked = tickets.worn(ticket, rng, kept) if rng.random() < worn_share else ticket
    return Example("tickets", asked.text, asked.label)
