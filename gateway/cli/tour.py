"""What `headgate demo` plays against its gateway: a client's requests, and then what to try."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import httpx
import msgspec

from gateway import settings as process_settings
from gateway.cli.output import WELL, WRONG, hint, table
from gateway.cli.serve import url
from gateway.settings import Settings

READY_WITHIN_S = 60.0
READY_EVERY_S = 0.1
TIMEOUT_S = 60.0

ASKED = (
    ("support", "I was charged twice for the lamp. Please help."),
    ("support", "Hello, my parcel has not arrived after 9 days."),
    ("support", "the tracking number for order 4711 does not work"),
    ("support", "Where is my package with the camera?"),
    ("support", "The tax on my invoice is wrong. Kind regards."),
    ("support", "Good morning, order 815 is late."),
    ("support", "My bank statement lists you two times this month."),
    ("support", "What is the capital of France?"),
    ("chat", "What is the capital of Japan?"),
    ("chat", "Capital of Kenya?"),
    ("chat", "Hello!"),
    ("chat", "Who are you?"),
    ("chat", "What can you do?"),
)
"""(model, text). Each is asked twice, once streamed."""

NOT_THERE = "gpt-unheard-of"


class Seen(msgspec.Struct, frozen=True):
    """One request and what came back."""

    model: str
    text: str
    stream: bool
    status: int
    answer: str
    backend: str
    exchange_id: str
    seconds: float


def main() -> int:
    """Play, and say what to try; the exit code says whether everything was as it should be."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    settings = process_settings.decode(os.environ[process_settings.ENVIRONMENT_VARIABLE])
    base = url(settings.host, settings.port, "https" if settings.tls_cert else "http")
    with httpx.Client(base_url=base, timeout=TIMEOUT_S, trust_env=False, verify=not settings.tls_cert) as client:
        if not wait_until_ready(client):
            hint(f"the gateway was not ready within {READY_WITHIN_S:g} s")
            return WRONG
        seen = [ask(client, model, text, stream=stream) for model, text in ASKED for stream in (False, True)]
        seen.append(ask(client, NOT_THERE, "Hello!", stream=False))
        wrong = [*complaints(seen), *recorded(settings, seen)]
    print(report(seen) if "--check" in sys.argv else report(seen) + suggestions(settings, base, seen), flush=True)
    for complaint in wrong:
        hint(f"not as it should be: {complaint}")
    return WRONG if wrong else WELL


def wait_until_ready(client: httpx.Client) -> bool:
    """Until the gateway has a policy and each model has answered its first prompt."""
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        try:
            if client.get("/health/ready").status_code == 200 and all(
                ask(client, m, "Hello!", stream=False).status == 200 for m in ("support", "chat")
            ):
                return True
        except httpx.TransportError:
            pass
        time.sleep(READY_EVERY_S)
    return False


def ask(client: httpx.Client, model: str, text: str, *, stream: bool) -> Seen:
    """One chat request, its answer put together."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream, "temperature": 0, "max_tokens": 40}
    started = time.monotonic()
    response = client.post("/v1/chat/completions", json=body)
    seconds = time.monotonic() - started
    answer = streamed_text(response.text) if stream and response.is_success else whole_text(response)
    backend, exchange_id = (response.headers.get(f"x-headgate-{name}", "") for name in ("backend", "exchange-id"))
    return Seen(model, text, stream, response.status_code, answer, backend, exchange_id, seconds)


def whole_text(response: httpx.Response) -> str:
    """The answer's text, or the error's message."""
    answer: Any = response.json()
    return str(answer["error"]["message"] if "error" in answer else answer["choices"][0]["message"]["content"])


def streamed_text(events: str) -> str:
    """The text of all chunks; "" for a stream that is not whole."""
    data = [line.removeprefix("data: ") for line in events.splitlines() if line.startswith("data: ")]
    if not data or data[-1] != "[DONE]":
        return ""
    chunks = [msgspec.json.decode(each) for each in data[:-1]]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))


def complaints(seen: list[Seen]) -> list[str]:
    """What a client would have noticed."""
    found = []
    for each in seen:
        if each.model == NOT_THERE:
            if each.status != 404:
                found.append(f"the model {NOT_THERE} answered {each.status}")
        elif each.status != 200 or not each.answer:
            found.append(f"{each.model}, {each.text!r}{', streamed' if each.stream else ''}: {each.status} {each.answer!r}")
        elif not each.backend or not each.exchange_id:
            found.append(f"{each.model}, {each.text!r}: no x-headgate headers")
    whole = {(each.model, each.text): each.answer for each in seen if not each.stream}
    found += [
        f"{e.text!r} streamed is {e.answer!r}, not {whole[e.model, e.text]!r}"
        for e in seen
        if e.stream and e.answer != whole[e.model, e.text]
    ]
    return found


def recorded(settings: Settings, seen: list[Seen]) -> list[str]:
    """Whether the last exchange is in the records, and the requests in the metrics."""
    admin = url(settings.admin_host, settings.admin_port)
    key = {"authorization": f"Bearer {settings.admin_key}"}
    served = [each for each in seen if each.status == 200]
    deadline = time.monotonic() + READY_WITHIN_S
    missing = "no request was served"
    while served and time.monotonic() < deadline:
        found = httpx.get(f"{admin}/exchanges/{served[-1].exchange_id}", headers=key, timeout=TIMEOUT_S, trust_env=False)
        metrics = httpx.get(f"{url(settings.metrics_host, settings.metrics_port)}/metrics", timeout=TIMEOUT_S, trust_env=False)
        if found.status_code == 200 and "headgate_requests_total{" in metrics.text:
            return []
        missing = f"the record of the last exchange: {found.status_code}; metrics: {metrics.status_code}"
        time.sleep(READY_EVERY_S)
    return [missing]


def report(seen: list[Seen]) -> str:
    """The requests as a table; of two that differ only in streaming, the streamed one."""
    shown = [each for each in seen if each.stream or each.model == NOT_THERE]
    rows = [(e.model, cut(e.text, 52), cut(e.answer, 44), e.backend or f"({e.status})", f"{e.seconds * 1000:.0f}") for e in shown]
    rows.insert(0, ("model", "asked", "answered", "by", "ms"))
    return f"\n{len(seen)} requests were played\n{table(rows)}"


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def suggestions(settings: Settings, base: str, seen: list[Seen]) -> str:
    """What to try now."""
    headgate = os.path.join(os.path.dirname(sys.executable), "headgate")
    headgate = os.path.relpath(headgate) if os.path.exists(headgate) else "headgate"
    admin = url(settings.admin_host, settings.admin_port)
    where = "" if admin == "http://127.0.0.1:8081" else f" --admin-url {admin}"
    last = next((each.exchange_id for each in reversed(seen) if each.status == 200), "ID")
    return f"""\


Try it
  base_url  {base}/v1          models: support, chat

  curl {base}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "support", "messages": [{{"role": "user", "content": "Where is my parcel?"}}]}}'

  from openai import OpenAI
  client = OpenAI(base_url="{base}/v1", api_key="none")
  messages = [{{"role": "user", "content": "What is the capital of Italy?"}}]
  for chunk in client.chat.completions.create(model="chat", messages=messages, stream=True):
      print(chunk.choices[0].delta.content or "", end="")

Look at it
  {headgate} status{where}
  {headgate} explain --exchange {last}{where}
  metrics   {url(settings.metrics_host, settings.metrics_port)}/metrics
  admin     {admin}
  policy    {settings.policy}

Ctrl-C stops it.
"""


if __name__ == "__main__":
    raise SystemExit(main())
