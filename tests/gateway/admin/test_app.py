"""The admin API over Starlette's application: who may ask, what is answered, what is refused and how."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.admin.app import AdminApi, admin_app, metrics_app
from gateway.admin.views import Views
from gateway.control.alerts import AlertDesk
from gateway.control.cascade_report import reports
from gateway.control.ledgers import Ledgers
from gateway.errors import StoreError
from gateway.link.messages import ExchangeRecord, ReplicaState
from gateway.records.store import MemoryStore
from gateway.telemetry.metrics import Exposition
from gateway.upstream.probe import ProbeView
from tests.gateway.control.audited import accepted, audited_policy, deferred
from tests.gateway.control.rig import Rig, policy_text
from tests.gateway.link.examples import record

KEY = "hg-key"
SECRET = "hush-hush"


class Site:
    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder, {"KEY": SECRET})
        self.rig.write(policy_text("v1").replace("model: v1", 'model: v1, api_key: "${env:KEY}"'))
        self.exposition = Exposition()
        self.store = MemoryStore()
        self.conditions: dict[tuple[str, str], str] = {}
        self.desk = AlertDesk(lambda: self.conditions, lambda _: None)
        self.ledgers = Ledgers(str(folder))
        views = Views(
            self.rig.reloader, self.rig.fleet, self.desk, self.exposition, self._replicas, 1, lambda: reports(self.ledgers.look())
        )
        app = admin_app(AdminApi(views, self.rig.reloader, self.store, self.ledgers.restart), key=KEY, names=("admin.example",))
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://127.0.0.1:8081",
            headers={"authorization": f"Bearer {KEY}"},
        )

    def _replicas(self) -> list[ProbeView]:
        return [ProbeView(ReplicaState("small", "http://127.0.0.1:1", True, evidence_ok=False), "no logprobs")]

    async def get(self, path: str, **more: Any) -> Any:
        response = await self.client.get(path, **more)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.rig.reloader.start()
    site.rig.worker(0)
    await asyncio.sleep(0)
    async with site.client:
        yield site


PATHS = [
    "/cascades",
    "/audited",
    "/status",
    "/policy",
    "/policy/versions",
    "/backends",
    "/alerts",
    "/exchanges",
    "/exchanges/x",
    "/nowhere",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", f"Basic {KEY}", "Bearer wrong", f"Bearer {KEY}x", KEY, "Bearer \xff"]
)
async def test_without_the_key_nothing_is_told(site: Site, path: str, authorization: str | None) -> None:
    headers = [] if authorization is None else [(b"authorization", authorization.encode("latin-1"))]
    del site.client.headers["authorization"]
    response = await site.client.get(path, headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"
    assert response.headers["www-authenticate"] == "Bearer"


async def test_health_needs_no_key_and_tells_nothing(site: Site) -> None:
    del site.client.headers["authorization"]
    assert await site.get("/health") == {"status": "ok"}


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8081", "127.0.0.1", "localhost:8081", "LOCALHOST", "[::1]:8081", "10.0.0.3:8081", "admin.example"]
)
async def test_names_of_its_own_and_addresses_are_answered(site: Site, host: str) -> None:
    await site.get("/status", headers={"host": host})


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8081", "localhost.evil.example", "127.0.0.1.evil.example", "", "a b", "[::1"]
)
@pytest.mark.parametrize("path", ["/status", "/health"])
async def test_a_name_that_was_rebound_to_it_is_refused_even_with_the_key(site: Site, host: str, path: str) -> None:
    response = await site.client.get(path, headers={"host": host})
    assert response.status_code == 403
    assert response.json()["error"]["type"] == "permission_error"


async def test_status_tells_all_there_is(site: Site) -> None:
    site.conditions["evidence_mismatch", "small u"] = "no logprobs"
    site.desk.look()
    site.rig.write("version: 1\nfoo: 1")
    await site.rig.reloader.reload()
    status = await site.get("/status")
    assert status["version"] == site.rig.reloader.version
    assert status["pinned"] is False
    assert any("foo" in problem["text"] for problem in status["rejected"]["problems"])
    assert [(worker["worker"], worker["version"]) for worker in status["workers"]] == [(0, status["version"])]
    assert status["backends"][0]["replicas"][0]["evidence_ok"] is False
    assert status["alerts"][0]["alert"] == "evidence_mismatch"
    assert status["records"]["waiting_for_store"] == 0
    assert (await site.get("/alerts"))["alerts"] == status["alerts"]
    assert (await site.get("/backends"))["backends"] == status["backends"]


async def test_cascades_are_shown_with_what_audits_found_and_can_begin_anew(site: Site) -> None:
    assert (await site.get("/cascades"))["cascades"] == []
    found = audited_policy(on_violation="disable")
    site.ledgers.in_force(found.policy, found.version, found.files)
    site.ledgers.take([accepted(number, found.version, number % 4 != 0) for number in range(200)])
    shown = await site.get("/cascades")
    (cascade,) = shown["cascades"]
    assert (cascade["route"], cascade["state"], cascade["audited"], cascade["disagreed"]) == ("chat", "disabled", 200, 50)
    assert shown["saving"].startswith("1 - spent / all_to_last")
    assert (await site.get("/status"))["cascades"] == [
        {
            "route": "chat",
            "promise": "disabled",
            "requests": 200,
            "deferred_share": 0.0,
            "audited": 200,
            "loss_at_most": cascade["loss_upper"],
            "epsilon": 0.01,
            "tightened": 0,
            "disabled": True,
        }
    ]
    assert (await site.client.post("/cascades/nowhere/restart")).status_code == 404
    begun = (await site.client.post("/cascades/chat/restart")).json()
    assert (begun["cascades"][0]["state"], begun["cascades"][0]["audited"]) == ("unconfirmed", 0)


async def test_audited_exchanges_come_page_by_page(site: Site) -> None:
    await site.store.add([accepted(1, "v"), accepted(2, "v", audited=False), deferred(3, "v", True), accepted(4, "v", route="other")])
    found = await site.get("/audited", params={"route": "chat"})
    assert [each["exchange_id"] for each in found["exchanges"]] == ["ex-1", "ex-3"]
    assert found["next"] is None
    assert (await site.get("/audited"))["exchanges"] == []
    for wrong in ("x", "-1", "1" * 30):
        assert (await site.client.get("/audited", params={"after": wrong})).status_code == 400


async def test_the_policy_is_shown_without_its_secrets(site: Site) -> None:
    response = await site.client.get("/policy")
    assert SECRET not in response.text
    assert response.json()["policy"]["backends"][0]["api_key"].startswith("sha256:")
    assert response.json()["version"] == site.rig.reloader.version


async def test_reload_and_rollback(site: Site) -> None:
    first = site.rig.reloader.version
    assert (await site.client.post("/reload")).json()["result"] == "unchanged"
    assert (await site.client.post("/rollback")).status_code == 409
    site.rig.write(policy_text("v2"))
    second = (await site.client.post("/reload")).json()
    assert second["result"] == "ok"
    versions = (await site.get("/policy/versions"))["versions"]
    assert {each["version"]: (each["in_force"], each["previous"]) for each in versions} == {
        second["version"]: (True, False),
        first: (False, True),
    }
    back = (await site.client.post("/rollback")).json()
    assert (back["result"], back["version"]) == ("rolled_back", first)
    assert (await site.get("/status"))["pinned"] is True
    site.rig.write("nonsense: 1")
    rejected = await site.client.post("/reload")
    assert rejected.status_code == 422
    assert "nonsense" in rejected.json()["error"]["message"]
    assert rejected.json()["problems"]
    assert rejected.json()["version"] == first


async def test_exchanges_newest_first_without_content_and_one_with_it(site: Site) -> None:
    await site.store.add([_at(record("a", content=b'{"x":1}'), 10.0), _at(record("b"), 20.0), _at(record("c"), 30.0, "other")])
    found = (await site.get("/exchanges"))["exchanges"]
    assert [each["exchange_id"] for each in found] == ["c", "b", "a"]
    assert all(each["content"] is None for each in found)
    assert [each["exchange_id"] for each in (await site.get("/exchanges?limit=1&route=chat"))["exchanges"]] == ["b"]
    for since in ("20", "1970-01-01T00:00:20Z"):
        assert len((await site.get("/exchanges", params={"since": since}))["exchanges"]) == 2
    one = await site.get("/exchanges/a")
    assert one["content"]["request"] == '{"x":1}'
    assert one["segments"] == {"tenant": "acme"}


def _at(made: ExchangeRecord, started_at: float, route: str = "chat") -> ExchangeRecord:
    return msgspec.structs.replace(made, started_at=started_at, route=route)


@pytest.mark.parametrize(
    ("path", "status", "param"),
    [
        ("/exchanges?limit=0", 400, "limit"),
        ("/exchanges?limit=-1", 400, "limit"),
        ("/exchanges?limit=1001", 400, "limit"),
        ("/exchanges?limit=x", 400, "limit"),
        ("/exchanges?limit=%D9%A3", 400, "limit"),
        ("/exchanges?since=yesterday", 400, "since"),
        ("/exchanges?since=nan", 400, "since"),
        ("/exchanges?since=inf", 400, "since"),
        ("/exchanges/nobody", 404, None),
        ("/exchanges/" + "x" * 1000, 404, None),
        ("/nowhere", 404, None),
        ("/reload", 405, None),
    ],
)
async def test_what_is_wrong_is_said_in_openais_shape(site: Site, path: str, status: int, param: str | None) -> None:
    response = await site.client.get(path)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"]


async def test_a_store_that_fails_is_a_503_and_a_bug_a_500(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object, **__: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(site.store, "recent", full)
    response = await site.client.get("/exchanges")
    assert (response.status_code, response.json()["error"]["message"]) == (503, "the disk is full")

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("at line 3 of a secret")

    monkeypatch.setattr(site.store, "recent", broken)
    response = await site.client.get("/exchanges")
    assert response.status_code == 500
    assert "secret" not in response.text


def test_an_admin_listener_without_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a key"):
        admin_app(None, key="", names=())  # type: ignore[arg-type]


async def test_metrics_are_prometheus_text_and_nothing_else_is_there() -> None:
    exposition = Exposition()
    exposition.counter("headgate_policy_reloads_total", "ok").inc(3)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(metrics_app(exposition)), base_url="http://x") as client:
        response = await client.get("/metrics")
        assert 'headgate_policy_reloads_total{result="ok"} 3.0' in response.text
        assert response.headers["content-type"].startswith("text/plain")
        assert (await client.get("/status")).status_code == 404
