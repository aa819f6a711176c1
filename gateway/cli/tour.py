"""What `headgate demo` plays against its gateway: a client's requests, tickets and others, one of them at a bad moment; and then it
tells of changes of the policy, as long as the demo runs.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import httpx
import msgspec

from gateway import settings as process_settings
from gateway.cli.output import WELL, WRONG, hint
from gateway.cli.serve import url
from gateway.cli.tour_text import FOREIGN, TICKET, UNSURE, Seen, report, stories, suggestions
from gateway.settings import Settings

READY_WITHIN_S = 60.0
READY_EVERY_S = 0.1
TIMEOUT_S = 60.0

ASKED = (
    ("support", "I was charged twice for the lamp. Please help."),
    ("support", "Hello, my parcel has not arrived after 9 days."),
    ("support", "the tracking number for order 4711 does not work"),
    ("support", TICKET),
    ("support", "The tax on my invoice is wrong. Kind regards."),
    ("support", "Good morning, order 815 is late."),
    ("support", "My bank statement lists you two times this month."),
    ("support", UNSURE),
    ("support", FOREIGN),
    ("chat", "What is the capital of Japan?"),
    ("chat", "Capital of Kenya?"),
    ("chat", "Hello!"),
    ("chat", "Who are you?"),
    ("chat", "What can you do?"),
)
"""(model, text). Each is asked twice, once streamed."""
SERVED = {TICKET: ("specialist", "primary"), UNSURE: ("generalist", "low_confidence"), FOREIGN: ("generalist", "ood")}
"""Who has to answer these, and why."""

NOT_THERE = "gpt-unheard-of"
LONG = "Write a reply: I was charged twice for the lamp."
MEANWHILE = "My invoice for the lamp is wrong."
BUSY_TRIES = 10
"""On a machine that is busy with other things, the long answer may be over before the other request has come."""
CHANGES_EVERY_S = 1.0


def main() -> int:
    """Play, and say what to try; the exit code says whether everything was as it should be."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    checking = "--check" in sys.argv
    settings = process_settings.decode(os.environ[process_settings.ENVIRONMENT_VARIABLE])
    base = url(settings.host, settings.port, "https" if settings.tls_cert else "http")
    with httpx.Client(base_url=base, timeout=TIMEOUT_S, trust_env=False, verify=not settings.tls_cert) as client:
        if not wait_until_ready(client):
            hint(f"the gateway was not ready within {READY_WITHIN_S:g} s")
            return WRONG
        seen = [ask(client, model, text, stream=stream) for model, text in ASKED for stream in (False, True)]
        seen.append(ask(client, NOT_THERE, "Hello!", stream=False))
        moved = ask_while_busy(client)
        wrong = [*complaints(seen), *misrouted(seen), *recorded(settings, [*seen, moved])]
        if moved.reason != "failover" and settings.workers == 1:  # more workers share the limit, and each lets one through
            wrong.append(f"{moved.text!r}, asked while the specialist was busy, was answered by {moved.backend} ({moved.reason})")
    print(report([*seen, moved]), flush=True)
    deferred = next(each for each in reversed(seen) if each.text == UNSURE)
    if not wrong:
        print(stories(*(admin_get(settings, f"/exchanges/{each.exchange_id}") for each in (deferred, moved))), flush=True)
    if not checking:
        print(suggestions(settings, base, deferred), flush=True)
    for complaint in wrong:
        hint(f"not as it should be: {complaint}")
    if checking and not wrong:
        print("All is well: every answer was whole, streamed and not, of the right model, and recorded and counted.", flush=True)
    if not checking:
        tell_of_changes(settings)
    return WRONG if wrong else WELL


def wait_until_ready(client: httpx.Client) -> bool:
    """Until the gateway has a policy and each model has answered its first prompt."""
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        try:
            if client.get("/health/ready").status_code == 200 and all(
                ask(client, model, TICKET, stream=False).reason == "primary" for model in ("support", "chat")
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
    backend, reason, exchange_id = (response.headers.get(f"x-headgate-{name}", "") for name in ("backend", "reason", "exchange-id"))
    return Seen(model, text, stream, response.status_code, answer, backend, reason, exchange_id, seconds)


def ask_while_busy(client: httpx.Client) -> Seen:
    """One request while the specialist, which takes one at a time, is writing a longer answer: another backend answers it."""
    long = {"model": "support", "messages": [{"role": "user", "content": LONG}], "stream": True, "temperature": 0, "max_tokens": 200}
    for _ in range(BUSY_TRIES):
        with client.stream("POST", "/v1/chat/completions", json=long) as answer:
            lines = answer.iter_lines()
            next(lines, "")  # it has begun
            moved = ask(client, "support", MEANWHILE, stream=True)
            for _ in lines:
                pass
        if moved.reason == "failover":
            break
    return moved


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


def misrouted(seen: list[Seen]) -> list[str]:
    """What was answered by another model than it has to be, or for another reason."""
    found = []
    for each in seen:
        wanted = SERVED.get(each.text) if each.model == "support" else None
        if wanted is not None and (each.backend, each.reason) != wanted:
            how = ", streamed" if each.stream else ""
            found.append(f"{each.text!r}{how} was answered by {each.backend} ({each.reason}), not by {wanted[0]} ({wanted[1]})")
    return found


def recorded(settings: Settings, seen: list[Seen]) -> list[str]:
    """Whether the last exchange is in the records, and the requests in the metrics."""
    served = [each for each in seen if each.status == 200]
    deadline = time.monotonic() + READY_WITHIN_S
    missing = "no request was served"
    while served and time.monotonic() < deadline:
        found = admin_get(settings, f"/exchanges/{served[-1].exchange_id}")
        metrics = httpx.get(f"{url(settings.metrics_host, settings.metrics_port)}/metrics", timeout=TIMEOUT_S, trust_env=False)
        if found.status_code == 200 and "headgate_requests_total{" in metrics.text:
            return []
        missing = f"the record of the last exchange: {found.status_code}; metrics: {metrics.status_code}"
        time.sleep(READY_EVERY_S)
    return [missing]


def admin_get(settings: Settings, path: str) -> httpx.Response:
    """What the admin API says. Raises httpx.HTTPError."""
    where = url(settings.admin_host, settings.admin_port)
    headers = {"authorization": f"Bearer {settings.admin_key}"}
    return httpx.get(f"{where}{path}", headers=headers, timeout=TIMEOUT_S, trust_env=False)


def tell_of_changes(settings: Settings) -> None:
    """A line for every policy that comes into force, until the demo is stopped."""
    before = ""
    while True:
        try:
            status: Any = admin_get(settings, "/status").json()
            version, pinned = str(status["version"]), bool(status["pinned"])
        except (httpx.HTTPError, ValueError, LookupError, TypeError):  # the controller is being started again
            version, pinned = before, False
        if before and version != before:
            print(f"policy {version} is in force{', by a rollback' if pinned else ''}; before it was {before}", flush=True)
        before = version
        time.sleep(CHANGES_EVERY_S)


if __name__ == "__main__":
    raise SystemExit(main())
