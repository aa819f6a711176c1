"""Who may use the admin listener: a request that names it by a name of its own, with the admin key."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.admin.answers import error_response

OPEN_PATHS = frozenset({"/health"})
"""Need no key: they tell nothing."""


class Gate:
    """ASGI middleware. Host is checked first: a web page that has rebound its own name to this address brings that name along,
    whereas an address can be bound to nobody's name."""

    def __init__(self, app: ASGIApp, key: str, names: Iterable[str]) -> None:
        """`names` are further host names of the listener."""
        self._app = app
        self._digest = _digest(key)
        self._names = {"localhost", *(name.lower() for name in names if name)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return error_response(403, "the admin listener does not go by this host name")
        if request.url.path in OPEN_PATHS:
            return None
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(_digest(key.strip()), self._digest):
            return error_response(401, "the admin key is missing or not accepted", headers={"www-authenticate": "Bearer"})
        return None

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        name = name.lower().rstrip(".")
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True


def _digest(key: str) -> bytes:
    """Of one length, so that comparing tells nothing of the key's."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
