"""The admin API of a running gateway, as the commands use it."""

from __future__ import annotations

import argparse
from typing import Any

import httpx

from gateway.cli import places
from gateway.cli.options import add_option
from gateway.cli.output import CommandError

TIMEOUT_S = 30.0
DATA_LISTENER = frozenset({"x-headgate-policy-version", "x-request-id"})
"""Headers that its refusals have and the admin listener's have not."""


def add_admin_options(parser: argparse.ArgumentParser) -> None:
    """Where the gateway is and the key to it."""
    add_option(parser, "--admin-url", "the gateway's admin listener", "http://127.0.0.1:8081")
    add_option(parser, "--admin-key", "its key; without one the user's own")


def ask(args: argparse.Namespace, method: str, path: str, **more: Any) -> Any:
    """The JSON that the admin API answers. Raises CommandError with what went wrong in one line."""
    url = args.admin_url.rstrip("/") + path
    headers = {"authorization": f"Bearer {args.admin_key or places.admin_key()}"}
    try:
        response = httpx.request(method, url, headers=headers, timeout=TIMEOUT_S, trust_env=False, **more)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CommandError(f"no gateway answers at {args.admin_url}: {error or type(error).__name__}") from error
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if response.is_success and answer is not None:
        return answer
    raise CommandError(_reason(response, answer, args.admin_url))


def _reason(response: httpx.Response, answer: Any, asked: str) -> str:
    if DATA_LISTENER & set(response.headers):
        return (
            f"{asked} looks like the data listener of a gateway, not like its admin listener: "
            "give that with --admin-url or HEADGATE_ADMIN_URL (http://127.0.0.1:8081 unless `headgate serve` was told another)"
        )
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    if response.status_code in (401, 403) and not message:
        message = "the admin key is not accepted; give the gateway's with --admin-key or HEADGATE_ADMIN_KEY"
    return str(message or f"{response.request.url} answered {response.status_code}")
