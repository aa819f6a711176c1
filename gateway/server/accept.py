"""The data plane's front door: who is asking, what for, and under which policy. Everything after it is an exchange."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final, final

from msgspec.structs import replace

from gateway.errors import ApiError
from gateway.exchange.executor import Exchange
from gateway.exchange.failure import RETRY_AFTER_S, retry_lines
from gateway.exchange.features import features
from gateway.exchange.order import Order, Site
from gateway.exchange.recording import ContentKeeper
from gateway.exchange.snapshot import Live, Snapshots
from gateway.protocol.body import Body, decode
from gateway.protocol.errors import error_body
from gateway.protocol.models import render_models
from gateway.server.models import answer_model
from gateway.server.paths import not_there
from gateway.server.refusal import refusal_record
from gateway.telemetry.trace_context import TraceContext, continue_trace, sampling_bound
from gateway.wire.base import Reply
from gateway.wire.request import Request
from policies import schema
from policies.hashing import CONTENT_RULE, sample
from policies.plan import Endpoint
from policies.snapshot import Decision, NoRoute

log: Final = logging.getLogger(__name__)

ENDPOINTS: Final[dict[bytes, Endpoint]] = {
    b"/v1/chat/completions": "chat",
    b"/v1/completions": "completions",
    b"/v1/embeddings": "embeddings",
    b"/v1/responses": "responses",
    b"/v1/messages": "messages",
}
MESSAGES: Final = b"/v1/messages"
"""Anthropic's clients ask here, and below it."""
MODELS: Final = b"/v1/models"
KNOWN_PATHS: Final = (*ENDPOINTS, MODELS, b"/health/live", b"/health/ready")
NEVER_ZERO: Final = 1 << 192 | 1 << 64 | 1
"""An id of zeros means "none" to a tracer."""
SANE_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


@final
class Caller:
    """What follows from a request's head under one policy: kept with the head, so that a client that asks again is not looked up again."""

    __slots__ = ("debug", "endpoint", "key", "key_name", "live", "request_id")

    def __init__(self, live: Live, endpoint: Endpoint, key: schema.Key | None, request: Request) -> None:
        self.live = live.number
        """Not the policy itself, which a client that is silent would keep."""
        self.endpoint: Endpoint = endpoint
        self.key = key
        self.key_name = "" if key is None else key.name
        self.debug = key is not None and key.debug and request.headers.get(b"x-headgate-debug") == b"true"
        self.request_id = asked_id(request)


@final
class Acceptor:
    """Answers requests of the data listener (`gateway.wire.base.Handler`)."""

    def __init__(self, site: Site, snapshots: Snapshots, *, trace_sample_percent: float, ready: Callable[[], bool]) -> None:
        self._site = site
        self._snapshots = snapshots
        self._sampled_before = sampling_bound(trace_sample_percent)
        self._ready = ready
        self._second = 0
        self._second_digits = ""

    def handle(self, request: Request, reply: Reply) -> None:
        """Answer a request, now or through the exchange that it becomes."""
        # One draw for every id: of the exchange 16 digits, of its trace 32, of its span 16.
        digits = (self._site.new_id(256) | NEVER_ZERO).to_bytes(32, "big").hex()
        # An exchange's begins with the second, so that the store appends to its index instead of touching a page of it for every record.
        second = int(time.time())
        if second != self._second:
            self._second, self._second_digits = second, second.to_bytes(4, "big").hex()
        exchange_id = self._second_digits + digits[:16]
        live = self._snapshots.current
        head = request.head
        caller = None if head is None else head.made_of_it
        if live is None or not isinstance(caller, Caller) or caller.live != live.number:
            try:
                endpoint = ENDPOINTS.get(request.path)
                if endpoint is None:
                    self._answer_other(request, reply, live, asked_id(request) or exchange_id)
                    return
                if request.method != b"POST":
                    raise not_taken(request.path, "POST")
                if live is None:
                    raise starting()
                caller = Caller(live, endpoint, authenticate(request, live), request)
            except ApiError as problem:
                if live is not None:
                    live.unrouted.request("refused", problem.status)
                refuse(reply, request.path, problem, exchange_id, asked_id(request) or exchange_id, "" if live is None else live.version)
                return
            if head is not None:
                head.made_of_it = caller
        headers = request.headers
        trace = continue_trace(headers.get(b"traceparent"), headers.get(b"tracestate"), self._sampled_before, digits[16:48], digits[48:])
        self._begin(request, reply, live, caller, exchange_id, caller.request_id or exchange_id, trace)

    def _begin(
        self,
        request: Request,
        reply: Reply,
        live: Live,
        caller: Caller,
        exchange_id: str,
        request_id: str,
        trace: TraceContext,
    ) -> None:
        """Bind the snapshot for the whole exchange, decide, and start the plan."""
        headers, key, endpoint = request.headers, caller.key, caller.endpoint
        body: Body | None = None
        try:
            if headers.get(b"content-encoding", b"identity") != b"identity":
                raise ApiError(415, "invalid_request_error", "compressed request bodies are not accepted", param="content-encoding")
            body = decode(request.body, endpoint)
            known = features(exchange_id, request, body, key, live.snapshot.needs)
            if live.stateful:
                known = replace(known, routes=live.states(self._site.now()))
            decision = live.snapshot.decide(known)
            if type(decision) is NoRoute:  # isinstance asks a Struct's metaclass, five times as dearly
                raise no_route(decision, body.model)
            check_conversation(body, decision)
        except ApiError as problem:
            live.unrouted.request("refused", problem.status)
            size = refuse(reply, request.path, problem, exchange_id, request_id, live.version)
            now = self._site.now()
            self._site.emit(refusal_record(problem, request, body, endpoint, key, live.version, exchange_id, request_id, trace, now, size))
            return
        order = self._order(request, live, caller, body, decision, exchange_id, request_id, trace)
        live.lease()
        Exchange(self._site, order, reply).start()

    def _order(
        self,
        request: Request,
        live: Live,
        caller: Caller,
        body: Body,
        decision: Decision,
        exchange_id: str,
        request_id: str,
        trace: TraceContext,
    ) -> Order:
        route = decision.route
        measures = live.measures[route.name]
        unit = ""
        if route.has_unit:
            if decision.unit is None:
                measures.unit_missing.value += 1
            else:
                unit = decision.unit
        stored = live.stored
        order = Order(
            exchange_id,
            request_id,
            route.name,
            decision.plan,
            live.targets,
            measures,
            live.version,
            live.release,
            body,
            request.path,
            trace,
            request.started,
            request.started + live.deadline,
            caller.key_name,
            caller.debug,
            unit,
            decision.segments,
            route.keep_alive_after,
        )
        if stored is not None and sample(exchange_id, CONTENT_RULE, stored.sample_percent):
            order.content = ContentKeeper(request.body)
        return order

    def _answer_other(self, request: Request, reply: Reply, live: Live | None, request_id: str) -> None:
        """Health, the model list, and everything that is not there: no exchange, and no id of one."""
        try:
            self._answer_path(request, reply, live, request_id)
        except ApiError as problem:
            problem.of_exchange = False
            raise

    def _answer_path(self, request: Request, reply: Reply, live: Live | None, request_id: str) -> None:
        path = request.path
        line = b"x-request-id: %s\r\n" % request_id.encode()
        if path.startswith(b"/health/"):
            if path == b"/health/live":
                reply.send(200, line + b"content-type: application/json\r\n", b'{"status":"ok"}')
                return
            if path == b"/health/ready":
                ready = live is not None and self._ready()
                reply.send(
                    200 if ready else 503,
                    line + b"content-type: application/json\r\n",
                    b'{"status":"ok"}' if ready else b'{"status":"not ready"}',
                )
                return
        if path == MODELS or path.startswith(MODELS + b"/"):
            if request.method not in (b"GET", b"HEAD"):
                raise not_taken(path, "GET, HEAD")
            if live is None:
                raise starting()
            names = live.snapshot.models(authenticate(request, live))
            answer = render_models(names) if path == MODELS else answer_model(path[len(MODELS) + 1 :], names)
            reply.send(200, line + b"content-type: application/json\r\n", answer)
            return
        raise not_there(path, KNOWN_PATHS)


def not_taken(path: bytes, methods: str) -> ApiError:
    """Another method than the path takes: no exchange was asked for (docs/adr/0009)."""
    message = f"{path.decode('latin-1')} takes {methods.split(',')[0]}"
    problem = ApiError(405, "invalid_request_error", message, headers=f"allow: {methods}\r\n".encode())
    problem.of_exchange = False
    return problem


def starting() -> ApiError:
    """What is said before a policy is in force."""
    return ApiError(503, "server_error", "no policy is in force yet", code="starting", headers=retry_lines(RETRY_AFTER_S))


def asked_id(request: Request) -> str:
    """The id that the client gave its request; "" where it gave none, or one that is not to be repeated."""
    given = request.headers.get(b"x-request-id")
    return given.decode() if given is not None and SANE_REQUEST_ID.fullmatch(given) else ""


def authenticate(request: Request, live: Live) -> schema.Key | None:
    """The API key of a request, None for an anonymous one that is allowed; ApiError 401 otherwise."""
    snapshot = live.snapshot
    presented = request.headers.get(b"authorization")
    token = b""
    if presented is not None:
        if presented[:7].lower() == b"bearer ":
            token = presented[7:].strip()
    elif (other := request.headers.get(b"x-api-key")) is not None:
        token = other
    policy = snapshot.policy
    if policy.keys and token:
        key = snapshot.key(hashlib.sha256(token).digest())
        if key is None:
            raise ApiError(401, "authentication_error", "the API key is not known here", code="invalid_api_key")
        return key
    if policy.server.anonymous:
        return None
    if policy.keys:
        raise ApiError(401, "authentication_error", "an API key is needed: Authorization: Bearer KEY", code="missing_api_key")
    if not is_loopback(request.peer):
        raise ApiError(
            401,
            "authentication_error",
            "the policy has no keys, so only this machine may ask (or set server.anonymous)",
            code="loopback_only",
        )
    return None


def is_loopback(peer: str) -> bool:
    """A Unix socket's peer ("") is this machine too."""
    if peer in ("127.0.0.1", "::1", ""):
        return True
    try:
        address = ip_address(peer)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or (mapped is not None and mapped.is_loopback)


def no_route(decision: NoRoute, model: str) -> ApiError:
    """Why no route takes a request, in the client's words."""
    if decision.why == "permission":
        return ApiError(403, "permission_error", f"this key may not use the model {model!r}", param="model", code="model_not_allowed")
    return ApiError(
        404, "invalid_request_error", f"the model {model!r} does not exist; see /v1/models", param="model", code="model_not_found"
    )


def check_conversation(body: Body, decision: Decision) -> None:
    """State that lives in one backend cannot be asked of a route that may choose another."""
    if len(decision.route.backends) > 1:
        for asked, name in ((body.previous_response, "previous_response_id"), (body.background, "background")):
            if asked:
                message = f"{name} needs a route with one backend; route {decision.route.name} has {len(decision.route.backends)}"
                raise ApiError(400, "invalid_request_error", message, param=name)


def refuse(reply: Reply, path: bytes, problem: ApiError, exchange_id: str, request_id: str, version: str) -> int:
    """Answer with an error as the clients of that path expect it; the length of its body. `version`: of the policy in force, ""
    before there is one."""
    endpoint: Endpoint | None = "messages" if path.startswith(MESSAGES) else None
    body = error_body(endpoint, problem.status, problem.kind, problem.message, problem.param, problem.code)
    lines = f"content-type: application/json\r\nx-request-id: {request_id}\r\n"
    if problem.of_exchange:
        lines += f"x-headgate-exchange-id: {exchange_id}\r\n"
    if version:
        lines += f"x-headgate-policy-version: {version}\r\n"
    reply.send(problem.status, lines.encode("latin-1") + problem.headers, body)
    return len(body)
