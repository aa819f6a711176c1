"""What a policy may know of a request, taken from it: only what the policy in force needs."""

from __future__ import annotations

from typing import Final

from gateway.protocol.body import Body
from gateway.wire.request import Request
from policies import schema
from policies.plan import Features
from policies.snapshot import Needs

NO_LABELS: Final[dict[str, str]] = {}


def features(exchange_id: str, request: Request, body: Body, key: schema.Key | None, needs: Needs) -> Features:
    """A request's features. Header values are taken as Latin-1, as HTTP has them."""
    headers = NO_LABELS
    if needs.headers:
        headers = {
            name: value.decode("latin-1") for name in needs.headers if (value := request.headers.get(name.encode("latin-1"))) is not None
        }
    return Features(
        exchange_id,
        body.endpoint,
        body.model,
        body.stream,
        body.choices,
        None if key is None else key.name,
        NO_LABELS if key is None else key.labels,
        headers,
        body.user if needs.user else None,
        body.prompt_chars() if needs.prompt_chars else 0,
    )
