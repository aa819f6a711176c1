"""What the demo's tour tells: what was asked and answered, the stories of two exchanges, and what to try."""

from __future__ import annotations

import os
import sys

import httpx
import msgspec

from gateway.cli.explain import from_json
from gateway.cli.output import table
from gateway.cli.serve import url
from gateway.records.story import story
from gateway.settings import Settings

TICKET = "Where is my package with the camera?"
UNSURE = "The total on the receipt is higher than the price."
"""A ticket in words that the specialist was not trained on: alone it says `returns`. The generalist knows better."""
FOREIGN = "What is the capital of France?"
"""No ticket, so that the guard sends it to the generalist."""


class Seen(msgspec.Struct, frozen=True):
    """One request and what came back."""

    model: str
    text: str
    stream: bool
    status: int
    answer: str
    backend: str
    reason: str
    exchange_id: str
    seconds: float


def report(seen: list[Seen]) -> str:
    """The requests as a table; of two that differ only in streaming, the streamed one."""
    streamed = {(each.model, each.text) for each in seen if each.stream}
    shown = [each for each in seen if each.stream or (each.model, each.text) not in streamed]
    rows = [(e.model, cut(e.text, 52), cut(e.answer, 44), by(e), f"{e.seconds * 1000:.0f}") for e in shown]
    rows.insert(0, ("model", "asked", "answered", "by", "ms"))
    return f"\n{len(seen)} requests were played, most of them twice: in one piece, and streamed as shown here\n{table(rows)}"


def by(seen: Seen) -> str:
    """Who answered, and why where it was not the first choice."""
    if not seen.backend:
        return f"({seen.status})"
    return seen.backend if seen.reason == "primary" else f"{seen.backend} ({seen.reason})"


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def stories(deferred: httpx.Response, moved: httpx.Response) -> str:
    """What the gateway has written down of a deferred request, and of the one that came at a bad moment."""
    return f"""
Of {UNSURE!r} the specialist was not sure, and it would have been wrong:

{_told(deferred)}

The last one came while the specialist was busy with another request:

{_told(moved)}
"""


def _told(recorded: httpx.Response) -> str:
    return "\n".join(f"  {line}".rstrip() for line in story(from_json(recorded.json())))


def suggestions(settings: Settings, base: str, deferred: Seen) -> str:
    """What to try now."""
    headgate = os.path.join(os.path.dirname(sys.executable), "headgate")
    headgate = os.path.relpath(headgate) if os.path.exists(headgate) else "headgate"
    admin = url(settings.admin_host, settings.admin_port)
    where = "" if admin == "http://127.0.0.1:8081" else f" --admin-url {admin}"
    return f"""\
Ask it
  base_url  {base}/v1          models: support, chat

  ask() {{ curl -si {base}/v1/chat/completions -H 'content-type: application/json' \\
    -d "{{\\"model\\": \\"support\\", \\"messages\\": [{{\\"role\\": \\"user\\", \\"content\\": \\"$1\\"}}]}}" \\
    | grep -E '^x-headgate-(backend|reason|ood)|"content"'; }}

  ask "{TICKET}"                  # a ticket: the specialist
  ask "{FOREIGN}"                        # no ticket: the guard sends it to the generalist
  ask "{UNSURE}"    # the specialist is not sure: deferred to the generalist

  from openai import OpenAI
  client = OpenAI(base_url="{base}/v1", api_key="none")
  messages = [{{"role": "user", "content": "What is the capital of Italy?"}}]
  for chunk in client.chat.completions.create(model="support", messages=messages, stream=True):
      print(chunk.choices[0].delta.content or "", end="")

Look at it
  {headgate} status{where}
  {headgate} explain --exchange {deferred.exchange_id}{where}
  metrics   {url(settings.metrics_host, settings.metrics_port)}/metrics

Change it: in {settings.policy}
  write "when_ood: flag" instead of "when_ood: to_last", save, and ask again: who answers, and why?
  write "last: nobody", and see what it says; the policy before stays in force
  {headgate} rollback{where}

Ctrl-C stops it.
"""
