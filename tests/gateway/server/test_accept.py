"""The front door: who may come in, under which policy, and what is answered without a backend."""

from __future__ import annotations

import json
import random
from typing import Any, cast

import pytest

from gateway.exchange.executor import Exchange
from gateway.exchange.order import Site
from gateway.exchange.snapshot import Snapshots
from gateway.link.messages import ExchangeRecord
from gateway.server.accept import Acceptor, is_loopback, not_taken
from gateway.telemetry.counters import Counters
from gateway.upstream.fake import FakeUpstream
from gateway.wire.known_head import KnownHead
from gateway.wire.request import Request
from policies import schema
from policies.hashing import CONTENT_RULE, sample
from tests.gateway.exchange.rig import DONE, JSON, SSE, WHOLE, FakeReply, event
from tests.gateway.upstream.rig import FakeLoop
from tests.policies import building

ACME = building.policy(keys=[{"name": "acme", "sha256": building.ACME}])


class Door:
    """An acceptor on a policy, and what comes out of it."""

    def __init__(self, policy: dict[str, Any] | None) -> None:
        self.loop = FakeLoop()
        self.records: list[ExchangeRecord] = []
        self.upstreams: dict[str, list[FakeUpstream]] = {}
        self.counters = Counters()
        self.snapshots = Snapshots(self._open, self.counters)  # type: ignore[arg-type]
        self.in_flight: set[Exchange] = set()
        self.ready = True
        site = Site(
            now=self.loop.time,
            call_later=self.loop.call_later,  # type: ignore[arg-type]
            new_id=random.Random(7).getrandbits,
            emit=self.records.append,
            left=lambda phase: None,
            in_flight=self.in_flight,
        )
        self.acceptor = Acceptor(site, self.snapshots, trace_sample_percent=0, ready=lambda: self.ready)
        if policy is not None:
            self.put_in_force(policy)

    def _open(self, backend: schema.Backend) -> FakeUpstream:
        upstream = FakeUpstream(backend.name)
        self.upstreams.setdefault(backend.name, []).append(upstream)
        return upstream

    def put_in_force(self, policy: dict[str, Any]) -> None:
        snapshot = building.snapshot(policy)
        self.snapshots.prepare(snapshot)
        self.snapshots.swap(snapshot.version)

    def ask(
        self,
        path: str = "/v1/chat/completions",
        body: dict[str, Any] | bytes | None = None,
        *,
        method: str = "POST",
        peer: str = "127.0.0.1",
        head: KnownHead | None = None,
        **headers: str,
    ) -> FakeReply:
        raw = body if isinstance(body, bytes) else json.dumps(body or {"model": "chat", "messages": []}).encode()
        lines = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        request = Request(method.encode(), path.encode(), b"", lines, peer, self.loop.time(), raw, head=head)
        reply = FakeReply()
        self.acceptor.handle(request, cast(Any, reply))
        return reply

    @property
    def small(self) -> FakeUpstream:
        return self.upstreams["small"][-1]


def test_a_known_head_is_looked_up_once_and_again_under_another_policy() -> None:
    door = Door(building.policy(keys=[{"name": "mine", "sha256": building.ACME, "debug": True}]))
    known = KnownHead(b"", b"", {})
    headers = {"authorization": "Bearer acme's key", "x_request_id": "mine-1", "x_headgate_debug": "true"}
    for _ in range(2):
        door.ask(head=known, **headers)
    remembered = known.made_of_it
    door.ask(head=known, **headers)
    assert known.made_of_it is remembered
    assert [(each.order.key, each.order.request_id, each.order.debug) for each in door.in_flight] == [("mine", "mine-1", True)] * 3
    assert len({each.order.exchange_id for each in door.in_flight}) == 3
    door.put_in_force(building.policy(keys=[{"name": "another", "sha256": building.GLOBEX}]))
    assert door.ask(head=known, **headers).status == 401, "the key is no longer one"
    assert door.ask(head=known, **headers).status == 401, "nor is its refusal undone by asking again"


def test_before_there_is_a_policy() -> None:
    door = Door(None)
    reply = door.ask()
    assert (reply.status, reply.error["code"]) == (503, "starting")
    assert {"retry-after", "retry-after-ms", "x-request-id", "x-headgate-exchange-id"} <= set(reply.headers)
    assert door.ask("/health/live", method="GET").status == 200
    assert door.ask("/health/ready", method="GET").status == 503
    assert door.ask("/v1/models", method="GET").status == 503
    assert door.ask("/nothing").status == 404


@pytest.mark.parametrize(("path", "method", "allow"), [("/v1/chat/completions", "GET", "POST"), ("/v1/models", "POST", "GET, HEAD")])
def test_another_method_asks_for_no_exchange(path: str, method: str, allow: str) -> None:
    reply = Door(building.policy()).ask(path, method=method)
    assert (reply.status, reply.headers["allow"]) == (405, allow)
    assert "x-headgate-exchange-id" not in reply.headers
    assert not not_taken(b"/", allow).of_exchange


def test_a_worker_that_drains_is_not_ready() -> None:
    door = Door(building.policy())
    assert door.ask("/health/ready", method="GET").status == 200
    door.ready = False
    assert door.ask("/health/ready", method="GET").status == 503
    assert door.ask("/health/live", method="GET").status == 200


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", ""])
def test_without_keys_this_machine_may_ask(peer: str) -> None:
    assert is_loopback(peer)
    door = Door(building.policy())
    door.ask(peer=peer)
    assert len(door.small.calls) == 1


@pytest.mark.parametrize("peer", ["10.0.0.1", "192.168.1.1", "::ffff:10.0.0.1", "2001:db8::1", "nonsense"])
def test_and_no_other(peer: str) -> None:
    door = Door(building.policy())
    reply = door.ask(peer=peer)
    assert (reply.status, reply.error["type"], reply.error["code"]) == (401, "authentication_error", "loopback_only")
    assert door.small.calls == []


@pytest.mark.key("server.anonymous")
def test_unless_the_policy_says_that_anybody_may() -> None:
    door = Door(building.policy(server={"anonymous": True}))
    door.ask(peer="10.0.0.1")
    assert len(door.small.calls) == 1


@pytest.mark.parametrize("headers", [{"authorization": "Bearer acme's key"}, {"x_api_key": "acme's key"}])
def test_a_key_is_presented_in_either_of_two_ways(headers: dict[str, Any]) -> None:
    door = Door(ACME)
    reply = door.ask(peer="10.0.0.1", **headers)
    door.small.last.reply(200, JSON, WHOLE)
    assert reply.status == 200
    assert [record.key for record in door.records] == ["acme"]


def test_a_refused_request_is_recorded_once_and_counted() -> None:
    door = Door(ACME)
    reply = door.ask(body=b'{"model": "nobody"}', authorization="Bearer acme's key")
    assert reply.status == 404
    (record,) = door.records
    assert (record.exchange_id, record.code, record.reason, record.route) == (reply.headers["x-headgate-exchange-id"], 404, "refused", "")
    assert (record.model, record.key, record.bytes_out, record.calls) == ("nobody", "acme", len(reply.body), ())
    assert record.policy_version == reply.headers["x-headgate-policy-version"]
    assert door.counters.counter("headgate_requests_total", "", "refused", "404").value == 1
    assert door.ask(authorization="Bearer wrong").status == 401
    assert len(door.records) == 1


def test_an_exchange_keeps_the_policy_it_began_with() -> None:
    door = Door(building.policy())
    reply = door.ask(body={"model": "chat", "messages": [], "stream": True})
    old = door.small
    old.last.head(200, SSE)
    old.last.body(event("one"))
    door.put_in_force(building.policy(backends=[building.backend("small", model="another")]))
    door.ask()
    assert json.loads(door.small.last.request_body)["model"] == "another"
    assert not old.closed
    old.last.body(event("", "stop") + DONE)
    old.last.end()
    assert old.closed
    assert reply.body == event("one") + event("", "stop") + DONE
    assert door.snapshots.current is not None
    assert door.records[0].policy_version == reply.headers["x-headgate-policy-version"] != door.snapshots.current.version


@pytest.mark.key("server.deadline")
def test_the_deadline_runs_from_the_first_byte_of_the_request() -> None:
    door = Door(building.policy(server={"deadline": "7s"}))
    door.ask()
    assert door.small.last.ask.deadline == door.loop.time() + 7


def test_what_a_backend_would_ignore_without_a_word_is_refused() -> None:
    door = Door(building.policy(backends=[building.backend("small", kind="ollama")]))
    reply = door.ask(body={"model": "chat", "messages": [], "n": 2})
    assert reply.status == 400
    assert reply.error["message"] == "backend small (ollama) would ignore 'n' without a word"
    assert door.small.calls == []
    assert [record.code for record in door.records] == [400]


def test_a_missing_unit_is_counted_and_never_made_up() -> None:
    door = Door(building.policy(routes=[building.route(unit=["header:x-user-id"])]))
    door.ask()
    door.small.last.reply(200, JSON, WHOLE)
    assert door.records[0].unit == ""
    assert door.counters.counter("headgate_unit_missing_total", "chat").value == 1


@pytest.mark.key("records.content.sample_percent")
def test_content_is_sampled_as_the_controller_will_ask_again() -> None:
    door = Door(building.policy(records={"content": {"store": True, "sample_percent": 50}}))
    for _ in range(40):
        door.ask()
        door.small.last.reply(200, JSON, WHOLE)
    kept = [record.content is not None for record in door.records]
    assert kept == [sample(record.exchange_id, CONTENT_RULE, 50) for record in door.records]
    assert 8 < sum(kept) < 32


def test_models_by_their_quoted_names() -> None:
    door = Door(building.policy(routes=[building.route(matches=[{"models": ["org/model v1"]}])]))
    assert json.loads(door.ask("/v1/models/org%2Fmodel%20v1", method="GET").body)["id"] == "org/model v1"
    assert json.loads(door.ask("/v1/models/org/model%20v1", method="GET").body)["id"] == "org/model v1"
    missing = door.ask("/v1/models/%FF", method="GET")
    assert (missing.status, missing.error["code"]) == (404, "model_not_found")


def test_ids_are_never_zero() -> None:
    door = Door(building.policy())
    door.acceptor._site.new_id = lambda bits: 0
    door.ask()
    door.small.last.reply(200, JSON, WHOLE)
    record = door.records[-1]
    assert int(record.trace_id, 16) != 0
    assert int(record.span_id, 16) != 0
