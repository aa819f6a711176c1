"""The admin API: JSON over Starlette, behind the admin key. And the metrics listener, a second, tiny one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Protocol

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.admin.answers import error_response, json_response
from gateway.admin.gate import Gate
from gateway.admin.views import Views, problems
from gateway.control.reload import Reload, Reloader, RollbackError
from gateway.errors import ApiError, StoreError
from gateway.link.messages import ExchangeRecord
from gateway.records.store import RECENT_MAX, AuditedPage
from gateway.records.story import to_json
from gateway.telemetry.metrics import Exposition

EXCHANGES_SHOWN = 100
"""Where no limit is given."""
EXCHANGE_ID_CHARS_MAX = 128
PROBLEMS_IN_MESSAGE_MAX = 5
"""The rest is in `problems`."""


class RecordReader(Protocol):
    """Where stored exchanges are looked up. Each raises StoreError."""

    async def get(self, exchange_id: str) -> ExchangeRecord | None: ...

    async def recent(self, limit: int, *, route: str | None = None, since: float | None = None) -> list[ExchangeRecord]: ...

    async def audited(self, route: str, after: int) -> AuditedPage: ...


class AdminApi:
    """The endpoints."""

    def __init__(
        self, views: Views, reloader: Reloader, records: RecordReader, restart_ledger: Callable[[str], bool] = lambda route: False
    ) -> None:
        """`restart_ledger`: begins the ledger of a route's cascade anew, False where the route has none."""
        self._restart_ledger = restart_ledger
        self._views = views
        self._reloader = reloader
        self._records = records

    def routes(self) -> list[Route]:
        get: dict[str, Callable[..., object]] = {
            "/health": self.health,
            "/status": self.status,
            "/policy": self.policy,
            "/policy/versions": self.versions,
            "/backends": self.backends,
            "/alerts": self.alerts,
            "/cascades": self.cascades,
            "/exchanges": self.exchanges,
            "/audited": self.audited,
            "/exchanges/{exchange_id}": self.exchange,
        }
        post: dict[str, Callable[..., object]] = {
            "/reload": self.reload,
            "/rollback": self.rollback,
            "/cascades/{route}/restart": self.restart_cascade,
        }
        return [
            *(Route(path, endpoint, methods=["GET"]) for path, endpoint in get.items()),
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in post.items()),
        ]

    async def health(self, request: Request) -> Response:
        return json_response({"status": "ok"})

    async def status(self, request: Request) -> Response:
        return json_response(self._views.status())

    async def policy(self, request: Request) -> Response:
        return json_response(self._views.policy())

    async def versions(self, request: Request) -> Response:
        return json_response({"versions": await self._views.versions()})

    async def backends(self, request: Request) -> Response:
        return json_response({"backends": self._views.backends()})

    async def alerts(self, request: Request) -> Response:
        return json_response({"alerts": self._views.alerts()})

    async def cascades(self, request: Request) -> Response:
        return json_response(self._views.cascades())

    async def restart_cascade(self, request: Request) -> Response:
        route = request.path_params["route"]
        if not self._restart_ledger(route):
            raise ApiError(404, "invalid_request_error", f"no route {route[:EXCHANGE_ID_CHARS_MAX]!r} with a cascade is in force")
        return json_response(self._views.cascades())

    async def reload(self, request: Request) -> Response:
        return _outcome(await self._reloader.reload())

    async def rollback(self, request: Request) -> Response:
        try:
            return _outcome(await self._reloader.rollback())
        except RollbackError as error:
            raise ApiError(409, "invalid_request_error", str(error)) from error

    async def exchanges(self, request: Request) -> Response:
        limit, since = _limit(request.query_params.get("limit")), _since(request.query_params.get("since"))
        found = await self._records.recent(limit, route=request.query_params.get("route"), since=since)
        return json_response({"exchanges": [to_json(msgspec.structs.replace(record, content=None)) for record in found]})

    async def audited(self, request: Request) -> Response:
        """The audited exchanges of a route, oldest first, a page at a time: `next` is the `after` of the next page, null at the end."""
        after = request.query_params.get("after", "0")
        if not (after.isascii() and after.isdigit() and len(after) <= 18):
            raise ApiError(400, "invalid_request_error", "after is the `next` of a page before", param="after")
        found = await self._records.audited(request.query_params.get("route", ""), int(after))
        return json_response({"exchanges": [to_json(record) for record in found.records], "next": found.next})

    async def exchange(self, request: Request) -> Response:
        exchange_id = request.path_params["exchange_id"]
        record = await self._records.get(exchange_id) if len(exchange_id) <= EXCHANGE_ID_CHARS_MAX else None
        if record is None:
            raise ApiError(404, "invalid_request_error", f"no exchange {exchange_id[:EXCHANGE_ID_CHARS_MAX]!r} is recorded")
        return json_response(to_json(record))


def admin_app(api: AdminApi, *, key: str, names: Iterable[str]) -> Starlette:
    """The admin listener's application. `names` are host names it goes by, besides localhost and any address. Raises ValueError
    for an empty key."""
    if not key:
        raise ValueError("the admin listener needs a key")
    return Starlette(
        routes=api.routes(),
        middleware=[Middleware(Gate, key, tuple(names))],
        exception_handlers={HTTPException: _http_error, ApiError: _api_error, StoreError: _store_error, 500: _fault},
    )


def metrics_app(exposition: Exposition) -> Starlette:
    """The metrics listener's application."""

    async def metrics(request: Request) -> Response:
        body, content_type = exposition.render(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return Starlette(routes=[Route("/metrics", metrics, methods=["GET"])], exception_handlers={HTTPException: _http_error, 500: _fault})


def _outcome(outcome: Reload) -> Response:
    shown = {
        "result": outcome.result,
        "version": outcome.version,
        "problems": problems(outcome.problems),
        "warnings": problems(outcome.warnings),
        "unready": outcome.unready,
    }
    if outcome.result != "rejected":
        return json_response(shown)
    message = "; ".join(map(str, outcome.problems[:PROBLEMS_IN_MESSAGE_MAX])) or "rejected"
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "policy_rejected"}
    return json_response({"error": error, **shown}, 422)


def _limit(text: str | None) -> int:
    if text is None:
        return EXCHANGES_SHOWN
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= RECENT_MAX):
        raise ApiError(400, "invalid_request_error", f"limit is a number from 1 to {RECENT_MAX}", param="limit")
    return int(text)


def _since(text: str | None) -> float | None:
    """Unix time, written as such or as ISO 8601 (RFC 3339)."""
    if text is None:
        return None
    try:
        since = float(text)
    except ValueError:
        try:
            since = datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError, OSError):
            since = math.nan
    if not math.isfinite(since):
        raise ApiError(400, "invalid_request_error", "since is a Unix time or an ISO 8601 time", param="since")
    return since


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"no {request.url.path} here" if error.status_code == 404 else error.detail
    return error_response(error.status_code, message, headers=error.headers)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error.status, error.message, param=error.param)


async def _store_error(request: Request, error: Exception) -> Response:
    return error_response(503, str(error))


async def _fault(request: Request, error: Exception) -> Response:
    return error_response(500, "the controller failed; its log says how")
