"""What the demo's tour tells: what was asked and answered, the story of one exchange, and what to try."""

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


def story_of(moved: Seen, recorded: httpx.Response) -> str:
    """What the gateway has written down about the request that came at a bad moment."""
    lines = "\n".join(f"  {line}".rstrip() for line in story(from_json(recorded.json())))
    return f"\nThe last one came while the specialist was busy with another request. This is its record:\n\n{lines}\n"


def suggestions(settings: Settings, base: str, moved: Seen) -> str:
    """What to try now."""
    headgate = os.path.join(os.path.dirname(sys.executable), "headgate")
    headgate = os.path.relpath(headgate) if os.path.exists(headgate) else "headgate"
    admin = url(settings.admin_host, settings.admin_port)
    where = "" if admin == "http://127.0.0.1:8081" else f" --admin-url {admin}"
    return f"""\
Ask it
  base_url  {base}/v1          models: support, chat

  curl -i {base}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "support", "messages": [{{"role": "user", "content": "Where is my parcel?"}}]}}'

  from openai import OpenAI
  client = OpenAI(base_url="{base}/v1", api_key="none")
  messages = [{{"role": "user", "content": "What is the capital of Italy?"}}]
  for chunk in client.chat.completions.create(model="chat", messages=messages, stream=True):
      print(chunk.choices[0].delta.content or "", end="")

Look at it
  {headgate} status{where}
  {headgate} explain --exchange {moved.exchange_id}{where}
  metrics   {url(settings.metrics_host, settings.metrics_port)}/metrics

Change it: in {settings.policy}
  write "backend: generalist" instead of "failover: [specialist, generalist]", save, and ask again: who answers?
  write "backend: nobody", and see what it says; the policy before stays in force
  {headgate} rollback{where}

Ctrl-C stops it.
"""
